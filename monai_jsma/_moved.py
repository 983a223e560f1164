# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Import paths of version 0.1 that lead to where their names are now, so that older programs and bundles still work."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MODULES", "install", "lookup"]

MODULES: Mapping[str, str] = {
    "checkpoints": "monai_jsma.handlers.checkpoints",
    "pointing": "monai_jsma.predictions.measures",
    "record_log": "monai_jsma.predictions.log",
    "records": "monai_jsma.predictions.records",
    "results": "monai_jsma.predictions",
    "schedulers": "monai_jsma.handlers.num_patches",
    "tables": "monai_jsma.predictions.tables",
    "uncertainty": "monai_jsma.predictions.measures",
}


class _MovedModules(MetaPathFinder, Loader):
    """Makes ``import monai_jsma.records`` give the public names of the module that took its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, name = fullname.rpartition(".")
        if parent == "monai_jsma" and name in MODULES:
            return ModuleSpec(fullname, self)
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.rpartition(".")[2]
        moved = importlib.import_module(MODULES[name])
        module.__doc__ = f"Moved to :mod:`{moved.__name__}`."
        for public in moved.__all__:
            value = getattr(moved, public)
            setattr(module, public, value)
        if hasattr(moved, "__getattr__"):
            vars(module)["__getattr__"] = moved.__getattr__  # names that moved out of a package


def install() -> None:
    """Let Python find the modules of :data:`MODULES` under their old names."""
    for finder in sys.meta_path:
        if isinstance(finder, _MovedModules):
            return
    sys.meta_path.append(_MovedModules())


def lookup(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package for names that have moved out of it.

    Args:
        package: name of the package.
        homes: the module that has each name now, as ``"module"``, or as ``"module:name"`` if it has another name there.
    """

    def find_moved(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home, _, new_name = homes[name].partition(":")
        module = importlib.import_module(home)
        return getattr(module, new_name or name)

    return find_moved
