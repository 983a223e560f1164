# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The answer of the synthetic pictures is known, and only the true magnification tells it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from monai_jsma._io import file_sha256
from monai_jsma.datalists import synthetic
from monai_jsma.datalists.schema import load_datalist
from monai_jsma.datalists.synthetic import GEOMETRY, list_layouts, make_dataset, make_picture

LABELS = range(4)
SCENES = [("sparse", 0), ("sparse", 1), ("sparse", 2), ("dense", 1), ("mixed", 0)]


def crop(image: np.ndarray, index: int) -> np.ndarray:
    """The level-0 pixels of a patch."""
    row, col, height, width = (int(v) for v in GEOMETRY.box(index))
    return image[row : row + height, col : col + width]


def block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = image.shape
    return image.reshape(height // factor, factor, width // factor, factor, channels).mean((1, 3))


def decode(cell: np.ndarray) -> int:
    """The label from the level-0 pixels of a true cell, slowly: look at every 2x2 block of the true magnification."""
    pixels = block_mean(cell.astype(float), len(cell) // 32)
    bits = []
    for channel in (1, 0):  # green carries bit 0, red (with blue) bit 1
        textured = np.zeros((2, 2))
        for row in range(0, 32, 2):
            for col in range(0, 32, 2):
                (a, b), (c, d) = pixels[row : row + 2, col : col + 2, channel]
                textured[row // 16, col // 16] += abs(a - b - c + d) / 4 > 20
        assert set(textured.ravel()) <= {0, 64}  # each quarter is textured everywhere or nowhere
        bits.append(int(textured.sum() == 128))
        assert not bits[-1] or textured[0, 0] == textured[1, 1]
    return bits[0] + 2 * bits[1]


def finer_cells(index: int) -> list[int]:
    """The cells of finer magnifications whose patches meet the patch of a cell."""
    row, col, height, width = GEOMETRY.box(index)
    found = []
    for other in range(GEOMETRY.offsets[GEOMETRY.cell(index).level + 1], GEOMETRY.num_cells):
        r, c, h, w = GEOMETRY.box(other)
        if r < row + height and row < r + h and c < col + width and col < c + w:
            found.append(other)
    return found


@pytest.mark.parametrize(("task", "level"), SCENES)
def test_coarser_magnifications_see_exactly_the_picture_without_textures(task, level, monkeypatch):
    pictures = [make_picture(label, np.random.default_rng(5), task=task, level=level) for label in LABELS]
    monkeypatch.setattr(synthetic, "TEXTURES", np.zeros_like(synthetic.TEXTURES))
    plain = make_picture(0, np.random.default_rng(5), task=task, level=level)
    for picture in pictures:
        blind = 2 * 2 ** (2 - picture.level)  # twice the true downsample
        assert (picture.level, picture.cells) == (plain.level, plain.cells)
        # Label 0 may carry no texture at all.
        assert picture.label == 0 or not np.array_equal(picture.image, plain.image)
        np.testing.assert_array_equal(block_mean(picture.image, blind), block_mean(plain.image, blind))


@pytest.mark.parametrize("level", [0, 1])
def test_every_finer_patch_is_distributed_alike_in_all_classes(level):
    index = GEOMETRY.offsets[level]
    finer = finer_cells(index)

    class Signs:
        """Gives the two signs that a cell draws, in turn."""

        def __init__(self, signs):
            self.signs = iter(signs)

        def choice(self, options):
            assert set(options) == {-1, 1}
            return next(self.signs)

    shown = {label: {cell: Counter() for cell in [index, *finer]} for label in LABELS}
    for label in LABELS:
        for layout in list_layouts(label):
            for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                image = np.zeros((256, 256, 3), int)
                synthetic.add_textures(image, index, layout=layout, rng=Signs(signs))
                for cell in shown[label]:
                    shown[label][cell][crop(image, cell).tobytes()] += 1
    assert len(finer) == (20 if level == 0 else 4)
    for cell in finer:
        assert shown[0][cell] == shown[1][cell] == shown[2][cell] == shown[3][cell]
    for label in (1, 2, 3):  # the test can fail: what the true cell shows does tell the class
        assert not set(shown[0][index]) & set(shown[label][index])


def test_no_finer_patch_holds_pixels_of_two_quarters():
    for level in (0, 1):
        index = GEOMETRY.offsets[level]
        for cell in finer_cells(index):
            quarters = np.zeros((256, 256, 1), int)
            row, col, size, _ = (int(v) for v in GEOMETRY.cell_box(index))
            quarters[row : row + size, col : col + size, 0] = np.kron([[1, 2], [3, 4]], np.ones((size // 2, size // 2)))
            assert len(set(crop(quarters, cell).ravel())) == 1


@pytest.mark.parametrize(("task", "level"), SCENES)
@pytest.mark.parametrize("label", LABELS)
def test_the_true_cells_tell_the_label_in_all_eight_orientations(task, level, label):
    picture = make_picture(label, np.random.default_rng(label), task=task, level=level)
    assert all(GEOMETRY.cell(cell).level == picture.level for cell in picture.cells)
    for cell in picture.cells:
        pixels = crop(picture.image, cell)
        for turns in range(4):
            turned = np.rot90(pixels, turns)
            assert decode(turned) == decode(turned[:, ::-1]) == label


def test_dense_uses_half_of_the_cells_and_mixed_every_magnification():
    for level, cells in enumerate((2, 8, 32)):
        assert len(make_picture(1, np.random.default_rng(0), task="dense", level=level).cells) == cells
    levels = Counter(make_picture(1, np.random.default_rng(seed), task="mixed").level for seed in range(30))
    assert set(levels) == {0, 1, 2}


@pytest.mark.parametrize(("task", "level"), SCENES)
def test_the_tint_shows_the_place_in_the_thumbnail(task, level, monkeypatch):
    picture = make_picture(2, np.random.default_rng(3), task=task, level=level)
    monkeypatch.setattr(synthetic, "TINTS", np.zeros_like(synthetic.TINTS))
    plain = make_picture(2, np.random.default_rng(3), task=task, level=level)
    tint = np.abs(block_mean(picture.image, 8) - block_mean(plain.image, 8)).sum(2)
    true = np.zeros((256, 256, 1))
    for cell in picture.cells:
        crop(true, cell)[:] = 1
    inside = block_mean(true, 8)[..., 0] == 1
    assert tint[~inside].max() == 0
    assert tint[inside].max() > 50


def features(patches: np.ndarray) -> np.ndarray:
    """Mean absolute response of small contrasts in each channel ``(patches, 9)``: enough to see any texture."""
    x = patches.astype(float)
    across, down = np.diff(x, axis=2), np.diff(x, axis=1)
    both = np.diff(across, axis=1)
    return np.concatenate([np.abs(v).mean((1, 2)) for v in (across, down, both)], axis=1)


def probe(x: np.ndarray, y: np.ndarray) -> float:
    """Cross entropy of a linear classifier on the second half, learned from the first."""
    half = len(x) // 2
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    model = LogisticRegression(C=0.01).fit(x[:half], y[:half])
    columns = np.searchsorted(model.classes_, y[half:])
    return float(-np.log(model.predict_proba(x[half:])[np.arange(len(x) - half), columns]).mean())


def test_controls_with_one_magnification():
    """A linear classifier of the mean of patch features: chance where it must be; the decoder is always right."""
    rng = np.random.default_rng(0)
    pictures = [make_picture(i % 4, rng) for i in range(320)]
    y = np.array([p.label for p in pictures])
    true = [crop(p.image, p.cells[0]) for p in pictures]
    assert [decode(pixels) for pixels in true] == y.tolist()
    fine = [[crop(p.image, c) for c in finer_cells(p.cells[0])] for p in pictures]
    coarse = [block_mean(p.image, 4) for p in pictures]
    fine_features = np.array([features(np.array(f)).mean(0) for f in fine])
    coarse_features = np.array([features(c[None])[0] for c in coarse])
    assert probe(fine_features, y) > np.log(4) - 0.05  # no better than guessing, up to noise
    assert probe(coarse_features, y) > np.log(4) - 0.05
    # The probe is not blind: the finer patches do tell it whether there is any green texture, which is no secret.
    green = np.array([np.abs(np.diff(pixels[..., 1].astype(float), axis=0)).mean() > 10 for pixels in true])
    guess = -np.log([1 - green.mean(), green.mean()]) @ [1 - green.mean(), green.mean()]
    assert probe(fine_features, green) < 0.8 * guess
    assert probe(coarse_features, green) > guess - 0.06


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (4, {}, "label must be 0 to 3, but got 4"),
        (0, {"task": "thick"}, "task must be sparse, dense or mixed .*'thick'"),
        (0, {"level": 3}, "level 0, 1 or 2, but got 'sparse' and 3"),
    ],
)
def test_unknown_options_of_a_picture(label, options, message):
    with pytest.raises(ValueError, match=message):
        make_picture(label, np.random.default_rng(0), **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_dataset_is_the_same_twice_and_complete(tmp_path):
    for name in ("a", "b"):
        make_dataset(tmp_path / name, num_train=8, num_validation=4, num_test=4, seed=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    items = load_datalist(tmp_path / "a" / "datalist.json", "training", num_classes=4)
    assert [item["label"] for item in items] == [0, 1, 2, 3] * 2
    for item in items:
        assert (item["level"], item["mpp"], item["mpp_source"]) == ("100X", 0.5, "given")
        assert GEOMETRY.cell(item["cell"]).level == 1
        assert file_sha256(item["image"]) == item["sha256"]
    pictures = [data for name, data in contents(tmp_path / "a").items() if name.endswith(".png")]
    assert len(set(pictures)) == 16


def test_more_pictures_or_another_seed(tmp_path):
    make_dataset(tmp_path / "few", num_train=2, num_validation=1, num_test=2, seed=0)
    make_dataset(tmp_path / "more", num_train=4, num_validation=2, num_test=2, seed=0)
    make_dataset(tmp_path / "other", num_train=2, num_validation=1, num_test=2, seed=1)
    few, more, other = (contents(tmp_path / name) for name in ("few", "more", "other"))
    pictures = [name for name in few if name.endswith(".png")]
    assert all(few[name] == more[name] != other[name] for name in pictures)


def test_dense_items_list_their_cells(tmp_path):
    make_dataset(tmp_path, num_train=1, num_validation=1, num_test=1, task="dense", level=0, num_classes=2)
    (item,) = load_datalist(tmp_path / "datalist.json", "test")
    assert len(item["cell"]) == 2
    assert item["level"] == "50X"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_test": 0}, "at least 1 image, but the number of test images is 0"),
        ({"num_classes": 5}, "2 to 4 classes, but got 5"),
        ({"num_classes": 1}, "2 to 4 classes, but got 1"),
        ({"seed": -1}, "seed must be at least 0, but is -1"),
        ({"task": "digits", "num_classes": 11}, "2 to 10 classes"),
        ({"task": "letters"}, "one of sparse, dense, mixed, digits, but got 'letters'"),
    ],
)
def test_dataset_that_cannot_be(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(tmp_path, **{"num_train": 1, "num_validation": 1, "num_test": 1, **wrong})
    assert not list(tmp_path.iterdir())
