# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What becomes of every file of the corpus on the public way in: right pixels, the right error, a wrong checksum."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from corpus import CASES, Fails, Hidden, NoSpacing, Reads, Refused
from corpus_files import Sample
from PIL import Image
from slide_files import HAS_CUCIM, stored_levels, windows

from monai_jsma._io import file_sha256
from monai_jsma.data import Pyramid, SlideError, inspect_slide
from monai_jsma.datalists.verify import verify_datalist
from monai_jsma.slides import open_slide
from monai_jsma.transforms import LoadPyramid


def of(*kinds: type) -> Any:
    """Parametrizes a test by the cases of these outcomes."""
    return pytest.mark.parametrize("name", [name for name, (_, outcome) in CASES.items() if isinstance(outcome, kinds)])


def in_child(task: Callable[..., Any], *args: Any) -> Any:
    """What ``task`` returns in a forked process, which may die of it."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return task(*args)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=lambda: answer.put(task(*args)))
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0, f"died or hung: exit code {child.exitcode}"
    return answer.get()


def pyramid_of(path: Path, mpp: float | None = 0.5) -> Pyramid:
    return LoadPyramid((0.5, 1.0), 32)(path, mpp=mpp)


def error_of(path: Path) -> tuple[str, str]:
    """The stage at which the file fails, and what is said."""
    try:
        info = inspect_slide(path)
    except SlideError as error:
        return "open", str(error)
    try:
        reader = open_slide(info)
        for level, size in enumerate(reader.level_sizes):
            reader.read(level, (0, 0), size)
    except SlideError as error:
        return "read", str(error)
    return "", ""


def faults_of(path: Path, sha256: str | None) -> list[str]:
    """Stages at which ``verify`` finds fault with the file."""
    item = {"image": path.name, "mpp": 0.5, **({"sha256": sha256} if sha256 else {})}
    datalist = path.with_name("datalist.json")
    datalist.write_text(json.dumps({"test": [item]}))
    return [fault.stage for fault in verify_datalist(datalist, everything=True)[0]]


def right_pixels(sample: Sample, path: Path, reader: str) -> list[np.ndarray]:
    """What must be read of every level: what went in; where that changed, what another program decodes."""
    if not sample.near:
        return list(sample.levels)
    if reader == "openslide":
        return [open_slide(inspect_slide(path)).read(i, (0, 0), v.shape[:2]) for i, v in enumerate(sample.levels)]
    if reader == "pil" and path.suffix == ".jpg":
        return [np.asarray(Image.open(path))]
    decoded = stored_levels(path) if reader != "pil" else [tifffile.imread(path)]
    return [np.broadcast_to(v if v.ndim == 3 else v[..., None], (*v.shape[:2], 3)) for v in decoded]


@of(Reads, NoSpacing)
def test_the_right_pixels(tmp_path: Path, name: str) -> None:
    sample, outcome = CASES[name]
    path = sample.make(tmp_path)
    info = inspect_slide(path)
    if isinstance(outcome, Reads) and (HAS_CUCIM or outcome.reader != "cucim"):
        assert info.reader == outcome.reader
        assert outcome.reason in info.reason
    levels = right_pixels(sample, path, info.reader)
    for level, source in zip(levels, sample.levels, strict=True):
        assert np.abs(level.astype(int) - source).mean() <= sample.near
    for forced in (None, "cucim", "tifffile", "openslide", "pil"):
        try:
            reader = open_slide(inspect_slide(path, reader=forced))
        except SlideError:
            assert forced not in (None, info.reader)
            continue
        for i in (i for i, exact in enumerate(reader.exact) if exact):
            for row, col, h, w in windows(levels[i].shape[:2], 8):
                np.testing.assert_array_equal(
                    reader.read(i, (row, col), (h, w)), levels[i][row : row + h, col : col + w], err_msg=str(forced)
                )
    pyramid = pyramid_of(path)
    half = levels[1] if len(levels) > 1 else halved(levels[0])
    geometry = pyramid.geometry
    for cell, patch in enumerate(pyramid.read(range(geometry.num_cells))):
        row, col, h, w = geometry.level_box(cell)
        expected = (half, levels[0])[geometry.cell(cell).level][row : row + h, col : col + w]
        np.testing.assert_array_equal(patch.transpose(1, 2, 0), expected)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels, halves up."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    return (pixels.reshape(height, 2, width, 2, 3).sum((1, 3), dtype=int) + 2) // 4


@of(NoSpacing)
def test_a_spacing_is_asked_for(tmp_path: Path, name: str) -> None:
    sample, outcome = CASES[name]
    path = sample.make(tmp_path)
    assert inspect_slide(path).mpp is None
    with pytest.raises(
        ValueError, match=rf"(?s)^{path}: the file does not tell its spacing.*{outcome.message}"
    ) as raised:
        pyramid_of(path, mpp=None)
    assert "give 'mpp' (um/px of level 0) in the datalist" in str(raised.value)


@of(Refused, Fails)
def test_the_right_error(tmp_path: Path, name: str) -> None:
    sample, outcome = CASES[name]
    path = sample.make(tmp_path, sound=True)
    sha256 = file_sha256(path)
    path = sample.make(tmp_path)
    stage, message = in_child(error_of, path)
    assert re.search(outcome.message, message), message
    assert message.startswith(f"{path}: ")
    assert re.search("copy .* again from its source|convert it|save the one|check that it is|choose reader=", message)
    assert stage == {Refused: "open", Fails: "read"}[type(outcome)]
    if sample.damage:
        assert faults_of(path, sha256) == ["sha256", stage]


@of(Hidden)
def test_only_a_checksum_sees_it(tmp_path: Path, name: str) -> None:
    sample, _ = CASES[name]
    path = sample.make(tmp_path, sound=True)
    sha256, sound = file_sha256(path), pyramid_of(path).thumbnail((160, 224))
    path = sample.make(tmp_path)
    assert in_child(error_of, path) == ("", "")
    assert (pyramid_of(path).thumbnail((160, 224)) != sound).any()
    assert faults_of(path, None) == []
    assert faults_of(path, sha256) == ["sha256"]
