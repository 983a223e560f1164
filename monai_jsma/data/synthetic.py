# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures with a known answer: which magnification, and which cell of it, tells the class.

A picture is 256x256 pixels of 0.5 um, seen at 50X, 100X and 200X through 32-pixel patches (``GEOMETRY``: 2x2, 4x4 and
8x8 cells). A tint shows in the thumbnail *where* to look. There each quarter of the cell carries a fine checkered
texture or does not, one texture in green and another in red and blue. A texture is either *alike* in all four quarters
(in all or in none) or in two *opposite* quarters only; bit 0 of the label tells it of the first texture, bit 1 of the
second.

Only the true magnification tells the class. With ``s`` its downsample, in level-0 pixels:

- Coarser: a texture has a period of ``2s`` and zero sum on every ``2s x 2s`` block of the ``2s`` grid, so that
  averaging by ``2s`` or a multiple gives exactly the picture without it. (So a thumbnail must be smaller by a multiple
  of ``2s``.)
- Finer: a patch lies within one quarter, where each texture is present with probability 1/2 in every class. So logits
  that add over patches (a linear classifier of a weighted mean of patch features) cannot have a smaller expected cross
  entropy than guessing.
- The classes do not change under the eight orientations of a square.

Pictures are uint8 ``(height, width, 3)``; positions are (row, column) in level-0 pixels; cells are flat indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_jsma.data.datalist import file_sha256, save_datalist
from monai_jsma.data.geometry import Box, PatchGeometry

__all__ = ["GEOMETRY", "SyntheticPicture", "layouts", "make_dataset", "make_picture"]

GEOMETRY = PatchGeometry((256, 256), mpp=0.5, magnifications=(2.0, 1.0, 0.5), patch_size=32)
CLASS_NAMES = ("Normal", "Benign", "InSitu", "Invasive")  # BACH's, so that its bundle runs on these pictures unchanged
TASKS = ("sparse", "dense", "mixed")

PINK, PURPLE = np.array([208.0, 166.0, 190.0]), np.array([186.0, 140.0, 178.0])
TINTS = np.array([[-10.0, -50.0, -50.0], [-50.0, -50.0, -10.0], [-50.0, -10.0, -50.0]])  # one per true magnification
TEXTURES = np.array([[0, 60, 0], [45, 0, 45]])  # amplitudes; no pixel ever leaves 0 to 255, so nothing is clipped
CHECKER = np.array([[1, -1], [-1, 1]])  # in pixels of size s
ALIKE = np.array([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])  # the quarters that carry a texture, row-major
OPPOSITE = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]]])


@dataclass(frozen=True)
class SyntheticPicture:
    """A picture and its answer.

    Args:
        image: uint8 ``(256, 256, 3)``.
        label: 0 to 3.
        level: index of the true magnification in ``GEOMETRY``, 0 is the coarsest.
        cells: flat indices of the cells that tell the class, ascending.
    """

    image: np.ndarray
    label: int
    level: int
    cells: tuple[int, ...]


def layouts(label: int) -> np.ndarray:
    """The 4 equally likely layouts of a class: 0 or 1, ``(layout, texture, row, column)`` over the quarters of a cell.

    Raises:
        ValueError: when ``label`` is not 0, 1, 2 or 3.
    """
    if label not in range(len(CLASS_NAMES)):
        raise ValueError(f"label must be 0 to {len(CLASS_NAMES) - 1}, but got {label}.")
    first, second = (OPPOSITE if label >> bit & 1 else ALIKE for bit in (0, 1))
    return np.array(list(product(first, second)))


def _tissue(rng: np.random.Generator) -> np.ndarray:
    """A smooth mixture of pink and purple, float ``(256, 256, 3)``: the mean of a few long plane waves."""
    angle = np.arange(GEOMETRY.size[0]) * (2j * np.pi / GEOMETRY.size[0])
    rows, cols = np.exp(rng.integers(-3, 4, (2, 6, 1)) * angle)
    phase = np.exp(2j * np.pi * rng.random((6, 1)))
    mixture = 0.5 + 0.5 * np.real((rows * phase).T @ cols) / 6
    return PINK + (PURPLE - PINK) * mixture[..., None]


def _add_tint(image: np.ndarray, cell: Box, colour: np.ndarray) -> None:
    """Tint a cell in place: strongest in its middle, nothing at its border."""
    row, col, size = int(cell.row), int(cell.col), int(cell.height)
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    image[row : row + size, col : col + size] += np.outer(window, window)[..., None] * colour


def _add_textures(image: np.ndarray, cell: Box, layout: np.ndarray, rng: np.random.Generator) -> None:
    """Draw both textures of a cell in place, each with one random sign."""
    row, col, size = int(cell.row), int(cell.col), int(cell.height)
    s = size // GEOMETRY.patch_size
    checker = np.kron(np.tile(CHECKER, (size // (2 * s), size // (2 * s))), np.ones((s, s), dtype=np.int64))
    for quarters, amplitude in zip(layout, TEXTURES):
        present = np.kron(quarters, np.ones((size // 2, size // 2), dtype=np.int64))
        image[row : row + size, col : col + size] += (rng.choice((-1, 1)) * checker * present)[..., None] * amplitude


def make_picture(label: int, rng: np.random.Generator, *, task: str = "sparse", level: int = 1) -> SyntheticPicture:
    """Draw one picture. The background and the place are drawn before the class is looked at.

    Args:
        label: 0 to 3 (0 and 1 alone make a two-class task).
        rng: source of all randomness.
        task: ``"sparse"``: one cell tells the class. ``"dense"``: half of the cells of the true magnification do.
            ``"mixed"``: one cell, of a magnification that each picture draws and the colour of the tint tells.
        level: the true magnification, 0 (50X) to 2 (200X); ``"mixed"`` does not use it.

    Raises:
        ValueError: for an unknown task, level or label.

    Example::

        >>> picture = make_picture(3, np.random.default_rng(0))
        >>> picture.image.shape, GEOMETRY.names[picture.level], len(picture.cells)
        ((256, 256, 3), '100X', 1)
    """
    if task not in TASKS or level not in range(len(GEOMETRY.grids)):
        raise ValueError(f"task must be one of {TASKS} and level 0, 1 or 2, but got '{task}' and {level}.")
    arrangements = layouts(label)
    level = int(rng.integers(len(GEOMETRY.grids))) if task == "mixed" else level
    first, end = GEOMETRY.offsets[level : level + 2]
    cells = sorted(first + int(c) for c in rng.permutation(end - first)[: (end - first) // 2 if task == "dense" else 1])
    background = _tissue(rng)
    for cell in cells:
        _add_tint(background, GEOMETRY.cell_box(cell), TINTS[level])
    image = np.rint(background).astype(np.int64)
    for cell in cells:
        _add_textures(image, GEOMETRY.cell_box(cell), arrangements[rng.integers(len(arrangements))], rng)
    return SyntheticPicture(image.astype(np.uint8), label, level, tuple(cells))


def _write_side(folder: Path, side: int, name: str, number: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the pictures of one side; each has its own random stream, so that no number changes another picture."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    items = []
    for i in range(number):
        rng = np.random.default_rng((settings["seed"], side, i))
        picture = make_picture(i % settings["num_classes"], rng, task=settings["task"], level=settings["level"])
        path = folder / name / f"{i:04d}.png"
        Image.fromarray(picture.image).save(path)
        cells = list(picture.cells)
        items.append({
            "image": f"{name}/{path.name}",
            "label": picture.label,
            "level": GEOMETRY.names[picture.level],
            "cell": cells[0] if len(cells) == 1 else cells,
            "sha256": file_sha256(path),
        })  # fmt: skip
    return items


def make_dataset(
    folder: str | Path,
    num_train: int = 320,
    num_validation: int = 80,
    num_test: int = 80,
    *,
    seed: int = 0,
    task: str = "sparse",
    level: int = 1,
    num_classes: int = 4,
) -> Path:
    """Write PNG pictures and ``datalist.json`` into ``folder`` and return the path of the datalist.

    The classes take turns. An item holds ``image``, ``label``, ``level`` (name of the true magnification), ``cell``
    (flat index of the true cell; a list in the dense task) and ``sha256``. The same arguments write the same bytes.

    Raises:
        ValueError: when a number of pictures is below 1, ``num_classes`` not 2 to 4, or the task or level unknown.
    """
    numbers = {"training": num_train, "validation": num_validation, "test": num_test}
    if min(numbers.values()) < 1 or num_classes not in (2, 3, 4):
        raise ValueError(f"Each side needs at least 1 picture and 2 to 4 classes, but got {numbers}, {num_classes}.")
    settings = {"task": task, "level": level, "seed": seed, "num_classes": num_classes, "num_pictures": numbers}
    sides = {n: _write_side(Path(folder), i, n, count, settings) for i, (n, count) in enumerate(numbers.items())}
    content = {
        "name": f"monai_jsma synthetic pictures, {task} task",
        "labels": {str(i): name for i, name in enumerate(CLASS_NAMES[:num_classes])},
        "mpp": GEOMETRY.mpp,
        "mpp_source": "given",
        "magnifications": [m.mpp for m in GEOMETRY.magnifications],  # type: ignore[union-attr]
        "patch_size": GEOMETRY.patch_size,
        "true_magnification": None if task == "mixed" else GEOMETRY.names[level],
        "settings": settings,
        **sides,
    }
    return save_datalist(content, Path(folder) / "datalist.json")
