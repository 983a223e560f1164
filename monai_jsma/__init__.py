# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Joint spatial and magnification based attention for very large histopathology images, as MONAI components.

A subpackage is imported on first use, so that ``python -m monai_jsma --help`` answers without torch. Once MONAI is
loaded, all are imported, so that bundle configurations find the components by short name after
``"imports": ["$import monai_jsma"]``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from monai_jsma import _components, _moved
from monai_jsma._version import __version__

__all__ = ["__version__"]


def __getattr__(name: str) -> ModuleType:
    is_subpackage = name in _components.SUBPACKAGES
    if not is_subpackage and name not in _moved.MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    names = set(globals())
    names.update(_components.SUBPACKAGES)
    return sorted(names)


_moved.install()
_components.load_with_monai()
