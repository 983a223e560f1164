# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Images with a known answer: which magnification, and which cell of it, determines the class.

An image is 256 x 256 pixels of 0.5 um, seen at 50X, 100X and 200X through 32-pixel patches (``GEOMETRY``: 2 x 2, 4 x 4
and 8 x 8 cells). A tint shows in the thumbnail *where* to look, but not the class. The class is drawn into that cell as
a fine checkerboard, which is seen at the true magnification only. With ``s`` its downsample, in level-0 pixels:

- Coarser magnifications: averaging by ``2s`` or a multiple gives exactly the image without the checkerboard. (So a
  thumbnail must be smaller by a multiple of ``2s``.)
- Finer magnifications: a patch shows one quarter of the cell at most.

Two kinds of images:

- *Textures* (:func:`make_picture`), 4 classes: each quarter of the cell has a texture or not, one texture in green and
  another in red and blue. A texture is either *alike* in all four quarters (in all or in none) or in two *opposite*
  quarters only; bit 0 of the label stands for the first texture, bit 1 for the second. In one quarter each texture is
  present with probability 1/2 in every class. So with logits that add over patches (a linear classifier of a weighted
  mean of patch features), finer patches cannot give a smaller expected cross entropy than guessing. The classes do not
  change under the eight orientations of a square.
- *Digits* (:func:`make_digit_picture`), 10 classes, which take many images to learn, so that attention has to begin
  without a useful gradient: the cell shows one of scikit-learn's 1797 handwritten digits, 8 x 8 pixels of 0 to 16.
  Twelve other cells of its magnification show a stroke each: one quarter of a digit of any class, in its own position.
  A finer patch holds one quarter of the digit, as the strokes are: less than the digit tells, but not nothing (unless
  the digit is at 200X, the finest). A digit rotated by 180 degrees may be another one: train without random
  orientations. No digit is in two splits.

The tint, its cells and the strokes are drawn before the class is used. Images are ``(height, width, 3)``, positions are
(row, column) in level-0 pixels, cells are flat indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_jsma._io import file_sha256
from monai_jsma.datalists.schema import save_datalist
from monai_jsma.geometry import PatchGeometry

__all__ = [
    "CLASSES",
    "CLASS_NAMES",
    "GEOMETRY",
    "MAGNIFICATIONS",
    "SPLITS",
    "SyntheticPicture",
    "add_textures",
    "draw_tissue",
    "list_layouts",
    "make_dataset",
    "make_digit_picture",
    "make_picture",
]

MAGNIFICATIONS = (2.0, 1.0, 0.5)  # um per pixel of 50X, 100X and 200X
GEOMETRY = PatchGeometry((256, 256), mpp=0.5, magnifications=MAGNIFICATIONS, patch_size=32)
CLASS_NAMES = ("texture A", "texture B", "texture C", "texture D")  # nobody can take them for a diagnosis
CLASSES = {"sparse": CLASS_NAMES, "dense": CLASS_NAMES, "mixed": CLASS_NAMES, "digits": tuple("0123456789")}  # by task
SPLITS = ("training", "validation", "test")

PINK = np.array([208.0, 166.0, 190.0])
PURPLE = np.array([186.0, 140.0, 178.0])
NUM_WAVES = 6
TINTS = np.array([[-10.0, -50.0, -50.0], [-50.0, -50.0, -10.0], [-50.0, -10.0, -50.0]])  # one per true magnification
CHECKER = np.array([[1, -1], [-1, 1]])  # in pixels of the cell's magnification

# Amplitudes are so small that no pixel leaves 0 to 255: nothing is clipped.
TEXTURES = np.array([[0, 60, 0], [45, 0, 45]])  # contrast of each texture in each channel
ALIKE = np.array([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])  # the quarters that carry a texture, row-major
OPPOSITE = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]]])
INK = np.array([2, 4, 2])  # contrast of a digit in each channel, per gray level of 16
NUM_STROKES = 12


@dataclass(frozen=True, kw_only=True)
class SyntheticPicture:
    """An image and its answer.

    Args:
        image: uint8 ``(256, 256, 3)``.
        label: index of the class.
        level: index of the true magnification in ``GEOMETRY``; 0 is the coarsest.
        cells: flat indices of the cells that determine the class, ascending.
    """

    image: np.ndarray
    label: int
    level: int
    cells: tuple[int, ...]


def make_dataset(
    folder: str | Path,
    *,
    num_train: int = 320,
    num_validation: int = 80,
    num_test: int = 80,
    seed: int = 0,
    task: str = "sparse",
    level: int = 1,
    num_classes: int | None = None,
) -> Path:
    """Write PNG images and ``datalist.json`` into a folder and return the path of the datalist.

    The classes take turns. An item holds ``image``, ``label``, ``level`` (name of the true magnification), ``cell``
    (flat index of the true cell; a list in the dense task) and ``sha256``. The same arguments write the same bytes.

    Args:
        folder: folder of the images.
        num_train: number of training images.
        num_validation: number of validation images.
        num_test: number of test images.
        seed: random seed of all images.
        task: ``"sparse"``, ``"dense"``, ``"mixed"`` or ``"digits"``.
        level: the true magnification, 0 (50X) to 2 (200X); ``"mixed"`` does not use it.
        num_classes: number of classes; by default all, 4 or 10 (digits).

    Raises:
        ValueError: when a number of images is below 1, there are fewer than 2 classes or more than the task has, or
            the task or level is unknown.
    """
    if task not in CLASSES:
        raise ValueError(f"task must be one of {', '.join(CLASSES)}, but got '{task}'.")
    names = CLASSES[task]
    numbers = {"training": num_train, "validation": num_validation, "test": num_test}
    if num_classes is None:
        num_classes = len(names)
    for split, number in numbers.items():
        if number < 1:
            raise ValueError(f"each split needs at least 1 image, but the number of {split} images is {number}.")
    if not 2 <= num_classes <= len(names):
        raise ValueError(f"task '{task}' has 2 to {len(names)} classes, but got {num_classes}.")
    if seed < 0:
        raise ValueError(f"the random seed must be at least 0, but is {seed}.")

    splits = {}
    for split, number in numbers.items():
        labels = [i % num_classes for i in range(number)]
        splits[split] = _write_split(Path(folder), split, labels, task=task, level=level, seed=seed)
    content = {
        "name": f"monai_jsma synthetic pictures, {task} task",
        "labels": {str(label): name for label, name in enumerate(names[:num_classes])},
        "mpp": GEOMETRY.mpp,
        "mpp_source": "given",
        "magnifications": list(MAGNIFICATIONS),
        "patch_size": GEOMETRY.patch_size,
        "true_magnification": None if task == "mixed" else GEOMETRY.names[level],
        "settings": {
            "task": task,
            "level": level,
            "seed": seed,
            "num_classes": num_classes,
            "num_pictures": numbers,
        },
        **splits,
    }
    return save_datalist(content, Path(folder) / "datalist.json")


def _write_split(
    folder: Path, split: str, labels: list[int], *, task: str, level: int, seed: int
) -> list[dict[str, Any]]:
    """Write the images of one split. Each has its own random stream, so that no number of images changes another."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    items = []
    for i, label in enumerate(labels):
        rng = np.random.default_rng((seed, SPLITS.index(split), i))
        if task == "digits":
            picture = make_digit_picture(label, rng, split=split, level=level)
        else:
            picture = make_picture(label, rng, task=task, level=level)
        name = f"{split}/{i:04d}.png"
        Image.fromarray(picture.image).save(folder / name)
        item = {
            "image": name,
            "label": picture.label,
            "level": GEOMETRY.names[picture.level],
            "cell": picture.cells[0] if len(picture.cells) == 1 else list(picture.cells),
            "sha256": file_sha256(folder / name),
        }
        items.append(item)
    return items


def make_picture(label: int, rng: np.random.Generator, *, task: str = "sparse", level: int = 1) -> SyntheticPicture:
    """Make an image whose class is determined by textures.

    Args:
        label: 0 to 3 (0 and 1 alone make a two-class task).
        rng: random source of the image.
        task: ``"sparse"``: one cell determines the class. ``"dense"``: half of the cells of the true magnification do.
            ``"mixed"``: one cell, of a random magnification that the color of the tint shows.
        level: the true magnification, 0 (50X) to 2 (200X); ``"mixed"`` does not use it.

    Raises:
        ValueError: for an unknown task, level or label.

    Example::

        >>> picture = make_picture(3, np.random.default_rng(0))
        >>> picture.image.shape, GEOMETRY.names[picture.level], len(picture.cells)
        ((256, 256, 3), '100X', 1)
    """
    if task not in ("sparse", "dense", "mixed") or level not in range(len(GEOMETRY.grids)):
        raise ValueError(f"task must be sparse, dense or mixed and level 0, 1 or 2, but got '{task}' and {level}.")
    arrangements = list_layouts(label)
    if task == "mixed":
        level = int(rng.integers(len(GEOMETRY.grids)))
    shuffled = _shuffle_cells(level, rng)
    num_cells = len(shuffled) // 2 if task == "dense" else 1
    cells = sorted(shuffled[:num_cells])

    image = draw_tissue(rng, cells)
    for cell in cells:
        layout = arrangements[rng.integers(len(arrangements))]
        add_textures(image, cell, layout=layout, rng=rng)
    return SyntheticPicture(image=image.astype(np.uint8), label=label, level=level, cells=tuple(cells))


def list_layouts(label: int) -> np.ndarray:
    """The 4 equally likely layouts of a class: 0 or 1, ``(layout, texture, row, column)`` over the quarters of a cell.

    Raises:
        ValueError: when ``label`` is not 0, 1, 2 or 3.
    """
    if label not in range(len(CLASS_NAMES)):
        raise ValueError(f"label must be 0 to {len(CLASS_NAMES) - 1}, but got {label}.")
    first = OPPOSITE if label & 1 else ALIKE
    second = OPPOSITE if label & 2 else ALIKE
    pairs = list(product(first, second))
    return np.array(pairs)


def add_textures(image: np.ndarray, cell: int, *, layout: np.ndarray, rng: np.random.Generator) -> None:
    """Draw both textures of a cell in place, each with one random sign."""
    signs = np.array([rng.choice((-1, 1)) for _ in TEXTURES])
    signed = signs[:, None] * TEXTURES  # (texture, channel)
    quarters = np.einsum("trc,tk->rck", layout, signed)
    blocks_per_quarter = GEOMETRY.patch_size // len(CHECKER) // 2
    _add_checkerboard(image, cell, _enlarge(quarters, blocks_per_quarter))


def make_digit_picture(
    label: int, rng: np.random.Generator, *, split: str = "training", level: int = 1
) -> SyntheticPicture:
    """Make an image whose class is a digit.

    Args:
        label: 0 to 9, the digit.
        rng: random source of the image.
        split: ``"training"``, ``"validation"`` or ``"test"``, each of which has its own digits.
        level: the true magnification, 0 (50X, which has room for three strokes) to 2 (200X).

    Raises:
        ValueError: for an unknown label, split or level.
    """
    if label not in range(10) or split not in SPLITS or level not in range(len(GEOMETRY.grids)):
        raise ValueError(
            f"label must be 0 to 9, split one of {', '.join(SPLITS)} and level 0, 1 or 2, but got {label}, '{split}' "
            f"and {level}."
        )
    digits, classes = _load_digits(split)
    cell, *others = _shuffle_cells(level, rng)[: 1 + NUM_STROKES]
    image = draw_tissue(rng, [cell])
    for other in others:
        stroke = _draw_stroke(digits, rng)
        _add_digit(image, other, digit=stroke, rng=rng)
    own_digits = digits[classes == label]
    _add_digit(image, cell, digit=rng.choice(own_digits), rng=rng)
    return SyntheticPicture(image=image.astype(np.uint8), label=label, level=level, cells=(cell,))


@cache
def _load_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split, int ``(n, 8, 8)``, and their classes ``(n,)``."""
    from sklearn.datasets import load_digits  # slow to import

    pixels, classes = load_digits(return_X_y=True)
    of_ten = np.array(["training"] * 8 + ["validation", "test"])  # splits of ten digits, one after the other
    is_own = np.resize(of_ten, len(classes)) == split
    digits = pixels[is_own].astype(np.int64)
    return digits.reshape(-1, 8, 8), classes[is_own]


def _draw_stroke(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random quarter of a random digit, ``(8, 8)`` with zeros around it."""
    row, col = rng.integers(2, size=2) * 4
    rows = slice(row, row + 4)
    cols = slice(col, col + 4)
    digit = rng.choice(digits)
    stroke = np.zeros_like(digit)
    stroke[rows, cols] = digit[rows, cols]
    return stroke


def _add_digit(image: np.ndarray, cell: int, *, digit: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a digit ``(8, 8)`` into the middle of a cell in place, each pixel as 2 x 2 fields of the checkerboard."""
    sign = rng.choice((-1, 1))
    contrast = np.zeros((16, 16, 3), dtype=np.int64)
    contrast[4:12, 4:12] = sign * digit[..., None] * INK
    _add_checkerboard(image, cell, contrast)


def _shuffle_cells(level: int, rng: np.random.Generator) -> list[int]:
    """The flat indices of the cells of a magnification, in random order."""
    first = GEOMETRY.offsets[level]
    end = GEOMETRY.offsets[level + 1]
    cells = rng.permutation(end - first) + first
    return cells.tolist()


def draw_tissue(rng: np.random.Generator, cells: list[int]) -> np.ndarray:
    """Make a background with tinted cells, int ``(256, 256, 3)``.

    The background is a smooth mixture of pink and purple, the mean of a few long plane waves. A tint has the color of
    its magnification; it is strongest in the middle of a cell and zero at its border.

    Args:
        rng: random source of the waves.
        cells: flat indices of the cells to tint.
    """
    side = GEOMETRY.size[0]
    frequencies = rng.integers(-3, 4, (2, NUM_WAVES, 1))  # in each direction
    phases = rng.random((NUM_WAVES, 1))
    angles = np.arange(side) * (2j * np.pi / side)
    row_waves, col_waves = np.exp(frequencies * angles)  # (waves, side)
    shifted = row_waves * np.exp(2j * np.pi * phases)
    total = np.real(shifted.T @ col_waves)  # (side, side)
    mixture = 0.5 + 0.5 * total / NUM_WAVES
    image = PINK + (PURPLE - PINK) * mixture[..., None]

    for cell in cells:
        pixels = _cell_pixels(image, cell)
        positions = (np.arange(len(pixels)) + 0.5) / len(pixels)
        bump = np.sin(np.pi * positions) ** 2
        tint = TINTS[GEOMETRY.cell(cell).level]
        pixels += np.outer(bump, bump)[..., None] * tint
    return np.rint(image).astype(np.int64)


def _add_checkerboard(image: np.ndarray, cell: int, contrast: np.ndarray) -> None:
    """Add a checkerboard to a cell in place.

    With ``s`` the downsample of the cell's magnification, the fields of the checkerboard are ``s x s`` level-0 pixels,
    and its contrast is the same on every ``2s x 2s`` block. So the sum of each block is zero: averaging by ``2s``, or a
    multiple, gives exactly the image without it.

    Args:
        image: int ``(256, 256, 3)``.
        cell: flat index of the cell.
        contrast: contrast of each block, integers ``(16, 16, 3)``.
    """
    pixels = _cell_pixels(image, cell)
    downsample = len(pixels) // GEOMETRY.patch_size
    fields = np.kron(contrast, CHECKER[..., None])  # (32, 32, 3)
    pixels += _enlarge(fields, downsample)


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Repeat each pixel ``factor`` times in both directions."""
    taller = image.repeat(factor, axis=0)
    return taller.repeat(factor, axis=1)


def _cell_pixels(image: np.ndarray, cell: int) -> np.ndarray:
    """The pixels of a cell, as a view of the image."""
    box = GEOMETRY.cell_box(cell)
    top = int(box.row)
    left = int(box.col)
    size = int(box.height)
    return image[top : top + size, left : left + size]
