# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Patches side by side: where they lie, how many tiles they decode, and that everyone who reads them agrees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid_cases import LevelsReader, every_cell, in_blocks, noise, slow_patch
from record_cases import pyramid_of, record_of
from slide_files import write_pyramid
from slow_patches import slow_patches
from tiny_networks import MAGNIFICATIONS, PATCH, mil_net, tiny_net

from monai_jsma.data import ArrayReader, Box, PatchGeometry, Pyramid
from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.networks import AllPatches
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.transforms import LoadPyramid, LoadPyramidd
from monai_jsma.visualize import open_record

TILE = 256
BACH = (1.68, 0.84, 0.42)
axes = st.integers(1, 60).flatmap(lambda patch: st.tuples(st.integers(1, 40 * patch), st.just(patch)))


def starts_of(length: int, patch: int) -> list[int]:
    """Along the longer axis of a picture."""
    geometry = PatchGeometry((1, length), 1.0, (1.0,), patch, aligned=True)
    return [int(geometry.level_box(i).col) for i in range(geometry.num_cells)]


@settings(deadline=None, max_examples=300)
@given(axes)
def test_patches_of_an_axis(axis):
    """They cover it, stay inside, lie on multiples of their size but for the last, and overlap their cells."""
    length, patch = axis
    starts, shown = starts_of(length, patch), np.zeros(max(length, patch), int)
    for start in starts:
        shown[start : start + patch] += 1
    assert shown.min() == 1
    assert starts == sorted(set(starts))
    assert starts[:-1] == [patch * c for c in range(len(starts) - 1)]
    assert starts[-1] == max(length - patch, 0)
    for c, start in enumerate(starts):
        cell = c * length / len(starts), (c + 1) * length / len(starts)
        assert min(start + patch, cell[1]) > max(start, cell[0])
        if length % patch == 0:
            assert (start, start + patch) == cell
    if len(starts) < 3:  # as ever
        assert starts == [
            int(PatchGeometry((1, length), 1.0, (1.0,), patch).level_box(c).col) for c in range(len(starts))
        ]


def test_grids_are_those_of_centred_patches():
    for size in ((1536, 2048), (2000, 2000), (100, 700), (1, 1)):
        centred = PatchGeometry(size, 0.42, BACH, TILE)
        assert replace(centred, aligned=True).grids == centred.grids
        assert replace(centred, aligned=True).cell_box(0) == centred.cell_box(0)
    assert PatchGeometry((2000, 2000), 0.42, BACH, TILE, True).level_box(83) == Box(1744, 1744, TILE, TILE)


def tiles_of(pyramid: Pyramid, reader: LevelsReader, cells: list[int]) -> int:
    """Different tiles of 256 pixels that lie under what is read."""
    reader.windows.clear()
    pyramid.read(cells)
    return len({
        (level, i, j)
        for level, row, col, height, width in reader.windows
        for i in range(row // TILE, (row + height - 1) // TILE + 1)
        for j in range(col // TILE, (col + width - 1) // TILE + 1)
    })  # fmt: skip


@pytest.mark.parametrize(
    ("size", "patch", "aligned", "fewer"),
    [
        ((1536, 2048), 299, False, 2.8),
        ((1536, 2048), 256, True, 12.5),
        ((2000, 2000), 299, False, 4.1),
        ((2000, 2000), 256, False, 5.2),
        ((2000, 2000), 256, True, 12.5),
    ],
)
def test_tiles_of_five_patches_against_all_of_a_picture(size, patch, aligned, fewer):
    """How many times fewer, in the mean over random cells: the table of docs/performance.md."""
    reader = LevelsReader(in_blocks(*size, (2, 4)))
    it = Pyramid(reader, mpp=0.42, magnifications=BACH, patch_size=patch, aligned=aligned)
    every = tiles_of(it, reader, list(every_cell(it)))
    assert every == {1536: 64, 2000: 84}[size[0]]
    rng = np.random.default_rng(0)
    some = [rng.choice(it.geometry.num_cells, 5, replace=False).tolist() for _ in range(200)]
    assert every / np.mean([tiles_of(it, reader, cells) for cells in some]) == pytest.approx(fewer, abs=0.05)


def test_a_region_that_begins_on_tile_borders_is_aligned_to_them():
    reader = LevelsReader(in_blocks(4096, 4096, (2, 4)))
    options = {"mpp": 0.25, "magnifications": (1.0, 0.5, 0.25), "patch_size": TILE, "aligned": True}
    it = Pyramid(reader, origin=(1024, 2048), size=(2048, 1024), **options)
    assert {tiles_of(it, reader, [cell]) for cell in every_cell(it)} == {1}
    it = Pyramid(reader, origin=(1000, 2000), size=(2048, 1024), **options)
    assert max(tiles_of(it, reader, [cell]) for cell in every_cell(it)) == 4


@pytest.mark.parametrize("size", [(24, 32), (20, 33), (5, 30)])
def test_patches_are_the_pixels_of_their_boxes(size):
    pixels = noise(*size)
    it = Pyramid(ArrayReader(pixels), mpp=1.0, magnifications=MAGNIFICATIONS, patch_size=PATCH, aligned=True)
    np.testing.assert_array_equal(it.read(every_cell(it)), [slow_patch(it, [pixels], c) for c in every_cell(it)])
    picture = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    whole = TensorPyramidBatch(picture, MAGNIFICATIONS, PATCH, aligned=True)
    assert whole.geometry == it.geometry == PatchGeometry(size, 1.0, MAGNIFICATIONS, PATCH, True)
    patches = whole.read(torch.zeros(len(every_cell(it)), dtype=torch.long), torch.arange(len(every_cell(it))))
    np.testing.assert_allclose(patches, slow_patches(picture[0].numpy() / 255, it.geometry), atol=1e-5)


def test_turned_pictures_show_the_same_patches():
    it = Pyramid(ArrayReader(noise(20, 33)), mpp=1.0, magnifications=MAGNIFICATIONS, patch_size=PATCH, aligned=True)
    boxes = {it.box(cell) for cell in every_cell(it)}
    for orientation in range(8):
        turned = it.oriented(orientation)
        assert turned.geometry.aligned
        assert {turned.box(cell) for cell in every_cell(turned)} == boxes


@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_networks_read_whole_pictures_so(make):
    image = torch.rand(2, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    aligned, centred = make(aligned=True).eval(), make().eval()
    whole = TensorPyramidBatch(image, MAGNIFICATIONS, PATCH, aligned=True)
    with torch.inference_mode():
        logits = aligned(image, sampler=AllPatches())
        torch.testing.assert_close(logits, centred(whole.thumbnail((16, 16)), whole, sampler=AllPatches()))
        assert (logits - centred(image, sampler=AllPatches())).abs().max() > 1e-6


def test_records_keep_it(tmp_path: Path):
    path = write_pyramid(tmp_path / "a.tif", [noise(300, 340)], mpp=0.5)
    made = record_of(pyramid_of(path, aligned=True, origin=(10, 20), size=(110, 230)), {1: 0.25, 4: 0.5, 20: 0.25})
    assert made.aligned
    again = PredictionRecord.from_json(made.to_json())
    assert again == made
    assert again.geometry == PatchGeometry((110, 230), 0.5, (1.0, 0.5), 40, True)
    assert sorted(again.cells.tolist()) == [1, 4, 20]
    for other in (open_record(again), again.evidence):
        assert other.geometry == again.geometry
    with pytest.raises(ValueError, match="does not lie at a cell"):
        _ = replace(again, aligned=False).cells


def test_records_without_it_are_read_as_before(tmp_path: Path):
    made = record_of(pyramid_of(write_pyramid(tmp_path / "a.tif", [noise(60, 100)], mpp=0.5)), {1: 0.25, 4: 0.75})
    line = json.loads(made.to_json())
    assert line.pop("aligned") is False
    assert PredictionRecord.from_json(json.dumps(line)) == made
    with pytest.raises(ValueError, match="aligned 'no' is neither true nor false"):
        PredictionRecord.from_json(json.dumps({**line, "aligned": "no"}))


def test_loaders_pass_it_on(tmp_path: Path):
    path = write_pyramid(tmp_path / "a.tif", [noise(60, 100)], mpp=0.5)
    assert LoadPyramid((0.5,), 40, aligned=True)(path).geometry.aligned
    assert LoadPyramidd("image", (0.5,), 40, aligned=True)({"image": path})["image"].geometry.aligned
    assert not LoadPyramid((0.5,), 40)(path).geometry.aligned
