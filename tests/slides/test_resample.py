# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Area averages against exact fractions, pixel by pixel."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_jsma.geometry import Box, PatchGeometry
from monai_jsma.slides.resample import area_resample, area_resample_tensor


def exact_means(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> list[list[list[Fraction]]]:
    """The slow, obvious average: every output pixel gathers every part of every input pixel, in fractions."""

    def parts(start: float, length: float, out: int, full: int) -> list[list[tuple[int, Fraction]]]:
        edges = [Fraction(start) + Fraction(length) * i / out for i in range(out + 1)]
        spans = []
        for a, b in zip(edges, edges[1:]):
            inside = [(p, min(b, Fraction(p + 1)) - max(a, Fraction(p))) for p in range(full)]
            spans.append([(p, part / (b - a)) for p, part in inside if part > 0])
        return spans

    rows = parts(box.row, box.height, size[0], pixels.shape[0])
    cols = parts(box.col, box.width, size[1], pixels.shape[1])
    return [
        [[sum(r * c * int(pixels[i, j, k]) for i, r in row for j, c in col) for k in range(3)] for col in cols]
        for row in rows
    ]


def assert_rounded(result: np.ndarray, means: list[list[list[Fraction]]]) -> None:
    for row, expected_row in zip(result, means):
        for pixel, expected in zip(row, expected_row):
            for value, mean in zip(pixel, expected):
                up = mean + Fraction(1, 2)
                near_half = abs(up - round(up)) < Fraction(1, 10**5)  # where edges snapped by 1e-6 may decide
                assert int(value) == math.floor(up) or (near_half and abs(int(value) - mean) < 0.51)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_box_is_the_exact_average(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def side(full: int) -> tuple[float, float]:
        start = data.draw(st.floats(0, full - 0.2))
        return start, data.draw(st.floats(0.1, full - start))

    (row, box_height), (col, box_width) = side(height), side(width)
    box, size = Box(row, col, box_height, box_width), (data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    result = area_resample(pixels, box, size)
    assert result.shape == (*size, 3)
    assert result.dtype == np.uint8
    assert_rounded(result, exact_means(pixels, box, size))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_whole_factors_are_the_plain_box_mean(down: int, across: int, row: int, col: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (row + 4 * down, col + 3 * across, 3), dtype=np.uint8)
    boxes = pixels[row:, col:].reshape(4, down, 3, across, 3).astype(np.int64).sum((1, 3))
    expected = (2 * boxes + down * across) // (2 * down * across)  # halves up, in integers
    result = area_resample(pixels, Box(row, col, 4 * down, 3 * across), (4, 3))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("jitter", [1e-9, -1e-9, 3e-7])
def test_edges_off_by_rounding_are_whole(jitter: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = area_resample(pixels, Box(4, 8, 24, 24), (6, 6))
    np.testing.assert_array_equal(area_resample(pixels, Box(4 + jitter, 8, 24, 24 - jitter), (6, 6)), expected)
    whole = area_resample(pixels, Box(0, 0, 40, 40), (10, 10))
    np.testing.assert_array_equal(area_resample(pixels, Box(0, 0, 40 + abs(jitter), 40), (10, 10)), whole)


def test_halves_round_up() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0] = 1  # mean 0.5
    assert area_resample(pixels, Box(0, 0, 2, 2), (1, 1)).tolist() == [[[1, 1, 1]]]
    assert area_resample(pixels, Box(0.5, 0, 1, 1.5), (1, 1)).tolist() == [[[1, 1, 1]]]  # the same by fractions
    thirds = np.repeat(np.uint8([[[17], [42]]]), 3, axis=2)
    assert area_resample(thirds, Box(0, 0, 1, 2), (1, 3))[0, :, 0].tolist() == [17, 30, 42]  # 29.5 in the middle


def test_many_blocks_of_rows_and_large_factors() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (700, 90, 3), dtype=np.uint8)
    blocks = area_resample(pixels, Box(0.25, 0, 699, 90), (100, 7))
    single = [area_resample(pixels, Box(0.25 + 6.99 * i, 0, 6.99, 90), (1, 7))[0] for i in range(100)]
    np.testing.assert_array_equal(blocks, single)
    white = np.full((600, 600, 3), 255, np.uint8)  # 360,000 pixels of 255 do not fit 16 bits
    assert (area_resample(white, Box(0, 0, 600, 600), (1, 1)) == 255).all()
    assert (area_resample(white, Box(0.3, 0.7, 599.1, 598.9), (3, 2)) == 255).all()


def test_an_untouched_box_is_a_copy() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    result = area_resample(pixels, Box(1, 2, 3, 4), (3, 4))
    np.testing.assert_array_equal(result, pixels[1:4, 2:6])
    assert not np.shares_memory(result, pixels)


def test_patches_of_bach_are_whole_factors() -> None:
    geometry = PatchGeometry((1536, 2048), 0.42, (1.68, 0.84, 0.42), 299)
    pixels = np.random.default_rng(3).integers(0, 256, (1536, 2048, 3), dtype=np.uint8)
    for index, factor in ((0, 4), (5, 2), (57, 1)):
        row, col, height, width = (round(v) for v in geometry.box(index))
        boxes = (
            pixels[row : row + height, col : col + width].reshape(299, factor, 299, factor, 3).astype(int).sum((1, 3))
        )
        expected = (2 * boxes + factor**2) // (2 * factor**2)
        np.testing.assert_array_equal(area_resample(pixels, geometry.box(index), (299, 299)), expected)


@pytest.mark.parametrize(
    "box", [Box(-0.1, 0, 2, 2), Box(0, 3, 2, 1.5), Box(3, 0, 2, 1), Box(1, 1, 0, 2), Box(1, 1, 1, -1)]
)
def test_a_box_outside_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="cannot average"):
        area_resample(np.zeros((4, 4, 3), np.uint8), box, (2, 2))


@pytest.mark.parametrize(
    ("box", "size"),
    [(Box(0, 0, 40, 36), (10, 9)), (Box(0.3, 1.7, 33.2, 30.1), (7, 11)), (Box(2, 3, 5, 6), (20, 18))],
)
def test_tensors_are_averaged_as_arrays_are(box: Box, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    expected = area_resample(pixels, box, size)
    means = area_resample_tensor(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), box, size)
    assert means.shape == (1, 3, *size)
    assert np.abs(means[0].permute(1, 2, 0).numpy() - expected).max() <= 0.501  # rounded there, not here
