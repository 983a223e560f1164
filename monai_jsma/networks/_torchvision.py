# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Makes ``import torchvision`` (and with it timm) work beside a PyTorch that its compiled operators do not fit.

torchvision's wheel from the package index is built against CUDA. Beside a CPU build of PyTorch its library cannot be
loaded, and the import stops at operators that were never declared. None of them is used here (they serve detection), so
declaring their signatures is enough. Nothing is done where torchvision imports as it should.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

import torch

__all__ = ["ensure_torchvision", "ensure_torchvision_before_timm"]

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_LIBRARIES: list[torch.library.Library] = []  # a declaration lives as long as its library object


def ensure_torchvision() -> None:
    """Import torchvision; if that fails for want of its own operators only, declare these and import it again."""
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise

    half_imported = [name for name in sys.modules if name.split(".")[0] == "torchvision"]
    for name in half_imported:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + _SIGNATURE)
    _LIBRARIES.append(library)
    importlib.import_module("torchvision")


class _BeforeTimm(MetaPathFinder):
    """Finds nothing, but sees that timm is about to be imported, also by a bundle's ``"_target_": "timm..."``."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "timm":
            ensure_torchvision()


def ensure_torchvision_before_timm() -> None:
    """From now on, call :func:`ensure_torchvision` just before timm is imported, by whomever."""
    if not any(isinstance(finder, _BeforeTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTimm())
