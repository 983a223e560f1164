# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Magnifications: physical spacings in micrometres per pixel (mpp), which names such as "100X" stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

__all__ = ["Magnification", "sorted_magnifications", "to_mpp"]

# "100X" of a 10x objective and a 10x eyepiece is about 1 um per pixel; the field's other steps are doublings of it.
_MPP_OF_100X = 1.0


@dataclass(frozen=True, order=True)
class Magnification:
    """A magnification of a picture, keyed by its spacing.

    Args:
        mpp: micrometres per pixel, positive.

    Example::

        >>> Magnification(0.84).name
        '100X'
    """

    mpp: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"mpp must be a positive number of micrometres per pixel, but got {self.mpp}.")

    @property
    def name(self) -> str:
        """The field's name of the nearest doubling of 100X (1 um/px): 0.42 um/px is "200X", as the paper calls it."""
        # The fraction of a float is that of its doublings too: no two of them share a name, as rounded logarithms may.
        fraction, exponent = math.frexp(self.mpp / _MPP_OF_100X)
        return f"{100 * 2.0 ** ((fraction <= math.sqrt(0.5)) - exponent):.10g}X"

    def __str__(self) -> str:
        return f"{self.name} ({self.mpp:g} um/px)"


def to_mpp(magnification: float | str | Magnification) -> float:
    """Micrometres per pixel of a number (already mpp), of a name such as ``"100X"`` or of a :class:`Magnification`.

    Raises:
        ValueError: for a number that is not positive, a string that is not a number followed by ``X``, or neither.
    """
    if isinstance(magnification, Magnification):
        return magnification.mpp
    if isinstance(magnification, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[xX]\s*", magnification)
        if match is None or float(match[1]) == 0:
            raise ValueError(f"'{magnification}' is no magnification: give um per pixel (1.0) or a name ('100X').")
        return 100 * _MPP_OF_100X / float(match[1])
    if not isinstance(magnification, Real):
        raise ValueError(f"{magnification!r} is no magnification: give um per pixel (1.0) or a name ('100X').")
    return Magnification(float(magnification)).mpp


def sorted_magnifications(magnifications: Sequence[float | str | Magnification]) -> tuple[Magnification, ...]:
    """Spacings in um per pixel, or names ("100X"), as magnifications from coarse to fine.

    Raises:
        ValueError: when they are no list, there is none, or one is repeated.
    """
    if isinstance(magnifications, str) or not isinstance(magnifications, Iterable):
        raise ValueError(
            f"magnifications must be a list such as [2.0, 1.0] or ['50X', '100X'], but got {magnifications!r}; "
            "automatic_magnifications chooses those for pictures of a size."
        )
    found = sorted((Magnification(to_mpp(m)) for m in magnifications), reverse=True)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"magnifications must be different and at least one, but got {list(magnifications)}.")
    return tuple(found)
