# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Exported networks run here: numpy, ONNX Runtime and the readers of slides, without PyTorch and MONAI."""

from __future__ import annotations

from .array_sampling import SAMPLER_NAMES, make_sampler
from .export_settings import ExportSettings, StageSettings
from .runner import ReadPatch, Runner, RunnerResult

__all__ = [
    "SAMPLER_NAMES",
    "ExportSettings",
    "ReadPatch",
    "Runner",
    "RunnerResult",
    "StageSettings",
    "make_sampler",
]
