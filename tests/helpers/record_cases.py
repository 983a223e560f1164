# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Prediction records with a chosen attention, of files on disk: shared by the tests of what is drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attention_cases import evidence_of, output

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.predictions.records import PredictionRecord, make_record
from monai_jsma.slides.open import inspect_slide, open_slide

CLASSES = ("benign", "tumour, viable")


def record_of(
    pyramid: Pyramid, attention: Mapping[int, float], weights: Mapping[int, float] | None = None, **options: Any
) -> PredictionRecord:
    """A record with ``attention`` on some cells; those of ``weights`` were read, by default the same."""
    drawn = attention if weights is None else weights
    made = output(pyramid, attention, list(drawn), list(drawn.values()))
    evidence = evidence_of(pyramid, {**made, "pred": torch.tensor([0.25, 0.75])})
    return make_record(evidence, CLASSES, **options)


def pyramid_of(
    path: Path | str, magnifications: Sequence[float] = (1.0, 0.5), patch_size: int = 40, **options: Any
) -> Pyramid:
    """A file at 0.5 um/px."""
    info = inspect_slide(path, mpp=0.5)
    return Pyramid(
        open_slide(info),
        mpp=0.5,
        mpp_source="given",
        magnifications=magnifications,
        patch_size=patch_size,
        path=str(path),
        **options,
    )
