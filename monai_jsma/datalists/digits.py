# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures with a digit in one of 84 cells: ten classes, which take many pictures to learn, so attention starts cold.

A tint shows in the thumbnail *where* to look. There lies one of scikit-learn's 1797 handwritten digits, 8x8 pixels of 0
to 16, drawn by the contrast of a fine checker. Twelve other cells of its magnification hold a stroke each: one quarter
of a digit of any class, in its own place. All signs are random. What tells the class:

- Coarser magnifications see exactly the picture without digit and strokes, see :mod:`~monai_jsma.datalists.canvas`.
- Tint, strokes and places are drawn before the class is looked at.
- A finer patch holds one quarter of the digit, as the strokes are: less than the digit tells, but not nothing. Where
  the digit is at 200X there is none.

Turned by 180 degrees a digit may be another one: train without random orientations. No digit is on two sides.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from monai_jsma.datalists.canvas import GEOMETRY, SyntheticPicture, add_checker, tinted_tissue

__all__ = ["make_digit_picture"]

SIDES = (*["training"] * 8, "validation", "test")  # of ten digits, one after the other
INK = np.array([2, 4, 2])  # contrast in each channel, of one of 16 grey values; no pixel ever leaves 0 to 255
STROKES = 12


@cache
def _digits(side: str) -> tuple[np.ndarray, np.ndarray]:
    """Digits of a side, int ``(n, 8, 8)``, and their classes ``(n,)``."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    own = np.resize(np.array(SIDES) == side, len(classes))
    return pixels[own].astype(np.int64).reshape(-1, 8, 8), classes[own]


def make_digit_picture(
    label: int, rng: np.random.Generator, *, side: str = "training", level: int = 1
) -> SyntheticPicture:
    """Draw one picture.

    Args:
        label: 0 to 9, the digit.
        rng: source of all randomness.
        side: ``"training"``, ``"validation"`` or ``"test"``, each of which has its own digits.
        level: the true magnification, 0 (50X, which has room for three strokes) to 2 (200X).

    Raises:
        ValueError: for an unknown label, side or level.
    """
    if label not in range(10) or side not in SIDES or level not in range(len(GEOMETRY.grids)):
        raise ValueError(
            f"label must be 0 to 9, side one of {', '.join(dict.fromkeys(SIDES))} and level 0, 1 or 2, "
            f"but got {label}, '{side}' and {level}."
        )
    digits, classes = _digits(side)
    first, end = GEOMETRY.offsets[level : level + 2]
    true, *others = (first + int(c) for c in rng.permutation(end - first)[: 1 + STROKES])
    image = tinted_tissue(rng, [true])
    for cell in others:
        row, col = rng.integers(2, size=2) * 4
        stroke = np.zeros((8, 8), dtype=np.int64)
        stroke[row : row + 4, col : col + 4] = rng.choice(digits)[row : row + 4, col : col + 4]
        _draw(image, cell, stroke, rng)
    _draw(image, true, rng.choice(digits[classes == label]), rng)
    return SyntheticPicture(image.astype(np.uint8), label, level, (true,))


def _draw(image: np.ndarray, cell: int, digit: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a digit ``(8, 8)`` into the middle of a cell in place, every pixel as 2x2 fields of the checker."""
    contrast = np.zeros((16, 16, 3), dtype=np.int64)
    contrast[4:12, 4:12] = rng.choice((-1, 1)) * digit[..., None] * INK
    add_checker(image, cell, contrast)
