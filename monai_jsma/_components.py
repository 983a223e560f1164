# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""When the subpackages are loaded: each on first use, and all of them once MONAI is loaded.

MONAI finds a component by its short name (``"_target_": "JSMANet"``) only among the modules that are loaded when it
looks for the first one. A program may import MONAI before this package, after it, or through one of its subpackages;
in each case the components are complete before the program goes on.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["SUBPACKAGES", "load_with_monai"]

SUBPACKAGES = (
    "data",
    "datalists",
    "deploy",
    "engines",
    "geometry",
    "handlers",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "overrides",
    "predictions",
    "report",
    "slides",
    "transforms",
    "visualize",
)


def load_with_monai() -> None:
    """Load all subpackages if MONAI is loaded, else as soon as it is."""
    if "monai" in sys.modules:
        _load_subpackages()
    else:
        sys.meta_path.insert(0, _ImportWatcher())


def _load_subpackages() -> None:
    for name in SUBPACKAGES:
        module = importlib.import_module(f"monai_jsma.{name}")
        for public in module.__all__:
            getattr(module, public)  # what a subpackage itself loads when it is first used


class _ImportWatcher(MetaPathFinder):
    """Loads all subpackages when MONAI has been imported.

    A subpackage that imports MONAI is itself only half imported at that moment. The watcher therefore follows the
    subpackages too, and the modules of the one that loads them when they are first used, and waits for the end of the
    outermost of these imports.
    """

    def __init__(self) -> None:
        self._watched = {"monai", *(f"monai_jsma.{name}" for name in SUBPACKAGES)}
        self._searching: set[str] = set()
        self._num_running = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_watched = fullname in self._watched or fullname.startswith("monai_jsma.data.")
        if not is_watched or fullname in self._searching:
            return None
        self._searching.add(fullname)  # so that the search below goes to the other finders
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching.remove(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchedLoader(spec.loader, self._execute)
        return spec

    def _execute(self, loader: Loader, module: ModuleType) -> None:
        self._num_running += 1
        try:
            loader.exec_module(module)
        finally:
            self._num_running -= 1
        if self._num_running == 0 and "monai" in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _load_subpackages()


class _WatchedLoader(Loader):
    """Lets ``execute(loader, module)`` run a module that another loader loads."""

    def __init__(self, loader: Loader, execute: Callable[[Loader, ModuleType], None]) -> None:
        self._loader = loader
        self._execute = execute

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._execute(self._loader, module)
