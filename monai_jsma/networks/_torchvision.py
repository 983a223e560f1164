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

import torch

__all__ = ["ensure_torchvision"]

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
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + _SIGNATURE)
    _LIBRARIES.append(library)
    importlib.import_module("torchvision")
