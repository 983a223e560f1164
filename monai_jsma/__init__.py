# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Joint spatial and magnification based attention for very large histopathology images, as MONAI components.

A subpackage is imported on first use (PEP 562), so that ``python -m monai_jsma --help`` answers without torch.
Where MONAI is loaded already, as in ``python -m monai.bundle``, all are imported at once: MONAI finds components
by short name ("_target_": "JSMANet") only in modules that are loaded.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from monai_jsma import _moved
from monai_jsma._version import __version__

__all__ = ["__version__"]

_SUBPACKAGES = (
    "data",
    "datalists",
    "engines",
    "geometry",
    "handlers",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "predictions",
    "report",
    "slides",
    "transforms",
    "visualize",
)

_moved.install()


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES or name in _moved.MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})


if "monai" in sys.modules:
    for _name in _SUBPACKAGES:
        importlib.import_module(f"{__name__}.{_name}")
