# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Ten digits: one cell tells the class, and nothing else does; no digit is in two splits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from monai_jsma.__main__ import main
from monai_jsma.data import make_digit_picture
from monai_jsma.datalists import synthetic
from monai_jsma.datalists.schema import load_datalist, read_datalist
from monai_jsma.datalists.synthetic import GEOMETRY

LEVELS = range(3)
DIGITS, CLASSES = load_digits(return_X_y=True)
NUMBER_OF = {digit.tobytes(): number for number, digit in enumerate(DIGITS.astype(int))}
SPLITS = ("training", "validation", "test")


def shown(image: np.ndarray, cell: int) -> np.ndarray:
    """What the checker of a cell shows, ``(16, 16)``, slowly: the contrast of every block of 2x2 fields."""
    row, col, size, _ = (int(v) for v in GEOMETRY.cell_box(cell))
    s = size // 32
    pixels = image[row : row + size, col : col + size, 1].astype(float)
    fields = pixels.reshape(32, s, 32, s).mean((1, 3))
    found = np.zeros((16, 16))
    for i in range(16):
        for j in range(16):
            (a, b), (c, d) = fields[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            found[i, j] = (a - b - c + d) / 4
    return found


def drawn(image: np.ndarray, cell: int) -> np.ndarray:
    """Grey values 0 to 16 of the digit or stroke of a cell, ``(8, 8)``; the tissue's own contrast is small."""
    values = np.rint(shown(image, cell) / 4).astype(int)
    middle = np.zeros_like(values)
    middle[4:12, 4:12] = values[4:12, 4:12]
    np.testing.assert_array_equal(values, middle)
    return np.abs(values[4:12, 4:12])


def of_level(level: int) -> range:
    return range(*GEOMETRY.offsets[level : level + 2])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_true_cell_shows_a_digit_of_the_label_and_of_the_split(split, level):
    numbers = set()
    for label in range(10):
        picture = make_digit_picture(label, np.random.default_rng(label), split=split, level=level)
        (cell,) = picture.cells
        assert (picture.label, picture.level, GEOMETRY.cell(cell).level) == (label, level, level)
        number = NUMBER_OF[drawn(picture.image, cell).tobytes()]
        assert CLASSES[number] == label
        numbers.add(number % 10)
    assert numbers <= {"training": set(range(8)), "validation": {8}, "test": {9}}[split]


@pytest.mark.parametrize(("level", "strokes"), [(0, 3), (1, 12), (2, 12)])
def test_strokes_are_quarters_of_digits_of_their_split(level, strokes):
    own = DIGITS[9::10].astype(int).reshape(-1, 8, 8)
    picture = make_digit_picture(3, np.random.default_rng(1), split="test", level=level)
    others = [drawn(picture.image, cell) for cell in of_level(level) if cell not in picture.cells]
    assert strokes - 2 <= sum(other.any() for other in others) <= strokes  # a quarter may be empty
    for other in others:
        quarter = (slice(0, 4) if other[:4].any() else slice(4, 8), slice(0, 4) if other[:, :4].any() else slice(4, 8))
        assert other.sum() == other[quarter].sum()
        assert (own[:, *quarter] == other[quarter]).all((1, 2)).any()


@pytest.mark.parametrize("level", LEVELS)
def test_all_but_the_true_cell_is_drawn_before_the_class_is_looked_at(level):
    pictures = [make_digit_picture(label, np.random.default_rng(4), level=level) for label in range(10)]
    blind = 2 * 2 ** (2 - level)  # twice the true downsample
    averages = [p.image.reshape(256 // blind, blind, 256 // blind, blind, 3).sum((1, 3)) for p in pictures]
    row, col, size, _ = (int(v) for v in GEOMETRY.cell_box(pictures[0].cells[0]))
    for picture, average in zip(pictures[1:], averages[1:]):
        assert picture.cells == pictures[0].cells
        np.testing.assert_array_equal(average, averages[0])  # so every coarser magnification is the same, and the tint
        differs = (picture.image != pictures[0].image).any(2)
        assert differs[row : row + size, col : col + size].any()
        differs[row : row + size, col : col + size] = False
        assert not differs.any()


def test_the_tint_shows_the_true_cell_in_its_colour(monkeypatch):
    picture = make_digit_picture(7, np.random.default_rng(3))
    monkeypatch.setattr(synthetic, "TINTS", np.zeros_like(synthetic.TINTS))
    plain = make_digit_picture(7, np.random.default_rng(3))
    tint = (picture.image.astype(int) - plain.image).reshape(4, 64, 4, 64, 3).mean((1, 3))
    cell = GEOMETRY.cell(picture.cells[0])
    assert np.abs(tint[cell.row, cell.col]).max() > 10
    tint[cell.row, cell.col] = 0
    assert not tint.any()


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_clipped(level, monkeypatch):
    monkeypatch.setattr(
        "monai_jsma.datalists.synthetic._load_digits", lambda split: (np.full((1, 8, 8), 16), np.array([0]))
    )
    pixels = [make_digit_picture(0, np.random.default_rng(seed), level=level).image for seed in range(10)]
    assert 0 < np.min(pixels) <= np.max(pixels) < 255  # a number beyond would have come back from the other end
    assert np.ptp(np.stack([drawn(p, c) for p in pixels for c in of_level(level)]), axis=0).max() == 16


@pytest.mark.parametrize("wrong", [{"label": 10}, {"split": "train"}, {"level": 3}])
def test_unknown_options(wrong):
    with pytest.raises(ValueError, match="label must be 0 to 9, split one of training, validation, test and level 0"):
        make_digit_picture(**{"label": 0, "rng": np.random.default_rng(0), **wrong})


def test_the_command_writes_ten_classes_and_the_same_twice(tmp_path):
    options = ["--task=digits", "--train=20", "--validation=9", "--test=1"]
    for name in ("a", "b"):
        assert main(["synthetic", str(tmp_path / name), *options]) == 0
    first, second = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in "ab")
    assert first == second
    assert len({data for path, data in first.items() if path.suffix == ".png"}) == 30
    content = read_datalist(tmp_path / "a" / "datalist.json")
    assert content["labels"] == {str(i): str(i) for i in range(10)}
    assert content["true_magnification"] == "100X"
    items = load_datalist(tmp_path / "a" / "datalist.json", "training", num_classes=10)
    assert [item["label"] for item in items] == [*range(10), *range(10)]
    assert {GEOMETRY.cell(item["cell"]).level for item in items} == {1}


def test_the_command_takes_a_level_and_fewer_classes(tmp_path):
    options = ["--train=3", "--validation=1", "--test=1", "--level=2", "--classes=3"]
    assert main(["synthetic", str(tmp_path), "--task=digits", *options]) == 0
    content = read_datalist(tmp_path / "datalist.json")
    assert (content["true_magnification"], len(content["labels"])) == ("200X", 3)
    assert [item["label"] for item in content["training"]] == [0, 1, 2]
