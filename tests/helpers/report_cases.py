# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Prediction records made by hand, shared by the tests of the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monai_jsma.geometry import Box
from monai_jsma.predictions.records import PatchRecord, PredictionRecord

CLASSES = ("a", "b", "c", "d")


def record(file: str, label: int | None, probabilities: Sequence[float], **more: Any) -> PredictionRecord:
    """A picture of 60 x 100 pixels at 0.5 um/px: 1 x 2 cells at 100X, 2 x 3 at 200X; one patch was read."""
    patch = PatchRecord(magnification="100X", mpp=1.0, row=0, col=0, box=Box(0, 0, 80, 80), attention=0.5, weight=1.0)
    values = {
        "location": (0, 0), "size": (60, 100), "mpp": 0.5, "mpp_source": "given", "classes": CLASSES, "group": file,
        "magnifications": (1.0, 0.5), "patch_size": 40, "attention": (0.5, 0, 0.25, 0.25, 0, 0, 0, 0),
        "patches": (patch,),
    }  # fmt: skip
    return PredictionRecord(file=file, label=label, probabilities=tuple(probabilities), **{**values, **more})


def answer(label: int | None, predicted: int, number: int, sure: float = 0.7, **more: Any) -> PredictionRecord:
    """A record that predicts a class with a probability; the others share the rest."""
    rest = (1 - sure) / (len(CLASSES) - 1)
    return record(f"{number}.png", label, [sure if c == predicted else rest for c in range(len(CLASSES))], **more)


def write(path: Path, records: Iterable[PredictionRecord]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(r.to_json() + "\n" for r in records), encoding="utf-8")
    return str(path)


def ten() -> list[PredictionRecord]:
    """Ten pictures of four classes and five groups, six of them right: accuracy 0.60."""
    pairs = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 0)]
    return [answer(t, p, i, 0.55 + 0.04 * i, group=f"P{i // 2}") for i, (t, p) in enumerate(pairs)]


def text_of(page: Path) -> str:
    """What a reader sees of a page."""
    body = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())
