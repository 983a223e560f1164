# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a picture must have to be read as a pyramid: the region inside it, and pixels that are fine enough."""

from __future__ import annotations

from collections.abc import Sequence

from monai_jsma.data.magnification import Magnification, to_mpp

__all__ = ["MAX_UPSAMPLING", "check_fine_enough", "check_region", "lies_inside"]

MAX_UPSAMPLING = 1.05  # so much finer than level 0 a magnification may be


def lies_inside(full: Sequence[int], origin: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a region has pixels and lies inside a picture; all in (row, column) and (height, width)."""
    return min(origin) >= 0 and min(size) >= 1 and all(o + n <= m for o, n, m in zip(origin, size, full))


def check_region(path: str, full: tuple[int, int], origin: Sequence[int], size: Sequence[int]) -> None:
    """Check that a region lies inside its picture.

    Args:
        path: the file, for the message.
        full: height and width of the picture.
        origin: row and column of the region's top-left corner, in level-0 pixels.
        size: its height and width, in level-0 pixels.

    Raises:
        ValueError: if it does not.
    """
    if not lies_inside(full, origin, size):
        raise ValueError(
            f"{path}: the region at (row, column) {tuple(origin)} of (height, width) {tuple(size)} leaves the "
            f"picture of {full}; correct 'location' and 'size' in the datalist (level-0 pixels)."
        )


def check_fine_enough(
    path: str, mpp: float, source: str, finest: float | str | Magnification, max_upsampling: float = MAX_UPSAMPLING
) -> None:
    """Check that a picture of ``mpp`` um per pixel can serve the magnification ``finest``.

    Raises:
        ValueError: if it is too coarse.
    """
    wanted = Magnification(to_mpp(finest))
    if mpp > wanted.mpp * max_upsampling:
        raise ValueError(
            f"{path}: {wanted} is finer than the file's {mpp:g} um/px ({source}); choose coarser "
            "magnifications, or correct 'mpp' in the datalist."
        )
