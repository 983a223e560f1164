# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures with a known answer: which magnification, and which cell of it, tells the class.

A tint shows in the thumbnail *where* to look. There each quarter of the cell carries a fine checkered texture or does
not, one texture in green and another in red and blue. A texture is either *alike* in all four quarters (in all or in
none) or in two *opposite* quarters only; bit 0 of the label tells it of the first texture, bit 1 of the second. Sizes
and grids are those of :mod:`~monai_jsma.datalists.canvas`.

Only the true magnification tells the class. With ``s`` its downsample, in level-0 pixels:

- Coarser: averaging by ``2s`` or a multiple gives exactly the picture without textures. (So a thumbnail must be
  smaller by a multiple of ``2s``.)
- Finer: a patch lies within one quarter, where each texture is present with probability 1/2 in every class. So logits
  that add over patches (a linear classifier of a weighted mean of patch features) cannot have a smaller expected cross
  entropy than guessing.
- The classes do not change under the eight orientations of a square.

The ten digits of :mod:`~monai_jsma.datalists.digits` are a task of their own.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_jsma._io import file_sha256
from monai_jsma.datalists.canvas import GEOMETRY, SyntheticPicture, add_checker, tinted_tissue
from monai_jsma.datalists.digits import make_digit_picture
from monai_jsma.datalists.schema import save_datalist

__all__ = ["layouts", "make_dataset", "make_picture"]

CLASS_NAMES = ("Normal", "Benign", "InSitu", "Invasive")  # BACH's, so that its bundle runs on these pictures unchanged
CLASSES = {"sparse": CLASS_NAMES, "dense": CLASS_NAMES, "mixed": CLASS_NAMES, "digits": tuple("0123456789")}  # by task

TEXTURES = np.array([[0, 60, 0], [45, 0, 45]])  # amplitudes; no pixel ever leaves 0 to 255, so nothing is clipped
ALIKE = np.array([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])  # the quarters that carry a texture, row-major
OPPOSITE = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]]])


def layouts(label: int) -> np.ndarray:
    """The 4 equally likely layouts of a class: 0 or 1, ``(layout, texture, row, column)`` over the quarters of a cell.

    Raises:
        ValueError: when ``label`` is not 0, 1, 2 or 3.
    """
    if label not in range(len(CLASS_NAMES)):
        raise ValueError(f"label must be 0 to {len(CLASS_NAMES) - 1}, but got {label}.")
    first, second = (OPPOSITE if label >> bit & 1 else ALIKE for bit in (0, 1))
    return np.array(list(product(first, second)))


def _add_textures(image: np.ndarray, cell: int, layout: np.ndarray, rng: np.random.Generator) -> None:
    """Draw both textures of a cell in place, each with one random sign."""
    signs = [rng.choice((-1, 1)) for _ in TEXTURES]
    quarters = np.einsum("t,trc,tk->rck", signs, layout, TEXTURES)
    add_checker(image, cell, quarters.repeat(8, axis=0).repeat(8, axis=1))


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
    if task not in ("sparse", "dense", "mixed") or level not in range(len(GEOMETRY.grids)):
        raise ValueError(f"task must be sparse, dense or mixed and level 0, 1 or 2, but got '{task}' and {level}.")
    arrangements = layouts(label)
    level = int(rng.integers(len(GEOMETRY.grids))) if task == "mixed" else level
    first, end = GEOMETRY.offsets[level : level + 2]
    cells = sorted(first + int(c) for c in rng.permutation(end - first)[: (end - first) // 2 if task == "dense" else 1])
    image = tinted_tissue(rng, cells)
    for cell in cells:
        _add_textures(image, cell, arrangements[rng.integers(len(arrangements))], rng)
    return SyntheticPicture(image.astype(np.uint8), label, level, tuple(cells))


def _write_side(folder: Path, side: int, name: str, number: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the pictures of one side; each has its own random stream, so that no number changes another picture."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    items, task, level = [], settings["task"], settings["level"]
    for i in range(number):
        label, rng = i % settings["num_classes"], np.random.default_rng((settings["seed"], side, i))
        if task == "digits":
            picture = make_digit_picture(label, rng, side=name, level=level)
        else:
            picture = make_picture(label, rng, task=task, level=level)
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
    num_classes: int | None = None,
) -> Path:
    """Write PNG pictures and ``datalist.json`` into ``folder`` and return the path of the datalist.

    The classes take turns. An item holds ``image``, ``label``, ``level`` (name of the true magnification), ``cell``
    (flat index of the true cell; a list in the dense task) and ``sha256``. The same arguments write the same bytes.

    Args:
        folder: of the pictures.
        num_train: number of pictures on this side.
        num_validation: likewise.
        num_test: likewise.
        seed: of all randomness.
        task: ``"sparse"``, ``"dense"``, ``"mixed"`` or ``"digits"``.
        level: the true magnification, 0 (50X) to 2 (200X); ``"mixed"`` does not use it.
        num_classes: by default all, 4 or of digits 10.

    Raises:
        ValueError: when a number of pictures is below 1, there are fewer than 2 classes or more than the task has, or
            the task or level is unknown.
    """
    if task not in CLASSES:
        raise ValueError(f"task must be one of {', '.join(CLASSES)}, but got '{task}'.")
    names, numbers = CLASSES[task], {"training": num_train, "validation": num_validation, "test": num_test}
    num_classes = len(names) if num_classes is None else num_classes
    if min(numbers.values()) < 1 or not 2 <= num_classes <= len(names):
        raise ValueError(
            f"Each side needs at least 1 picture and 2 to {len(names)} classes, but got {numbers}, {num_classes}."
        )
    settings = {"task": task, "level": level, "seed": seed, "num_classes": num_classes, "num_pictures": numbers}
    sides = {n: _write_side(Path(folder), i, n, count, settings) for i, (n, count) in enumerate(numbers.items())}
    content = {
        "name": f"monai_jsma synthetic pictures, {task} task",
        "labels": {str(i): name for i, name in enumerate(names[:num_classes])},
        "mpp": GEOMETRY.mpp,
        "mpp_source": "given",
        "magnifications": [m.mpp for m in GEOMETRY.magnifications],  # type: ignore[union-attr]
        "patch_size": GEOMETRY.patch_size,
        "true_magnification": None if task == "mixed" else GEOMETRY.names[level],
        "settings": settings,
        **sides,
    }
    return save_datalist(content, Path(folder) / "datalist.json")
