# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How many bits of a 16-bit sample hold data: by what the file states, never by a guess.

Cameras of 10, 12 or 14 bits write samples of 16 bits, whose brightest value is 1023, 4095 or 16383. Taken for 16 bits
they become black. The depth is stated by TIFF (MaxSampleValue or SMaxSampleValue of 2^n - 1), OME (SignificantBits) and
PNG (sBIT). Without a statement, pixels that need no more than 14 bits are refused.
"""

from __future__ import annotations

import re

from tifffile import TiffPage

from monai_jsma.slides.codec import find_png_chunk

__all__ = ["choose_depth", "read_png_depth", "read_tiff_depth"]

_FULL = 16  # bits
_SMALL = 2**14  # a camera of 14 bits never reaches it
_SIGNIFICANT_BITS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*\bSignificantBits=[\"'](\d+)[\"']")


def read_tiff_depth(page: TiffPage, description: str) -> int | None:
    """Bits of a sample that hold data, as the tags of a page or its OME description state; None if they do not.

    Args:
        page: the page.
        description: the description of the first page of the file, which is where OME-XML is.
    """
    for name in ("SMaxSampleValue", "MaxSampleValue"):
        value = page.tags.valueof(name)
        values = set(value) if isinstance(value, tuple) else {value}
        if len(values) == 1:
            depth = _find_depth(values.pop())
            if depth is not None:
                return depth

    match = _SIGNIFICANT_BITS.search(description)
    if match and 8 <= int(match[1]) <= _FULL:
        return int(match[1])
    return None


def read_png_depth(data: bytes, largest: int) -> int | None:
    """Bits of a sample that hold data, as the sBIT chunk of a 16-bit PNG stream states; None if it has none.

    The PNG specification asks for samples that are scaled up to 16 bits, whose sBIT says how precise they are. Many
    writers do not scale; then no value exceeds what the stated bits can hold.

    Args:
        data: bytes of the file.
        largest: largest value of the pixels.
    """
    chunk = find_png_chunk(data, b"sBIT")
    if not chunk:
        return None
    bits = max(chunk)
    return bits if bits >= 8 and largest < 2**bits else _FULL


def choose_depth(largest: int, stated: int | None) -> int:
    """Bits that hold data: what the file states, or 16 where pixels need them.

    Args:
        largest: largest value of the pixels.
        stated: bits of a sample that the file states, or None.

    Raises:
        ValueError: if the pixels exceed the stated bits, or none are stated and the pixels would become black.
    """
    if stated is None:
        if 0 < largest < _SMALL:
            raise ValueError(
                f"its 16-bit pixels reach only {largest}, as those of a 10- to 14-bit camera do, and the file does not "
                "state how many bits hold data; convert it to uint8, or state the bits (TIFF tag MaxSampleValue, such "
                "as 4095 for 12 bits; SignificantBits in OME; sBIT in PNG)"
            )
        return _FULL
    if largest >= 2**stated:
        raise ValueError(
            f"the file states {stated} bits of data, but has a pixel of {largest}; convert it to uint8, or correct the "
            "statement"
        )
    return stated


def _find_depth(value: object) -> int | None:
    """Bits of a largest value of 2^n - 1; any other is only that of the brightest pixel."""
    for bits in range(8, _FULL + 1):
        if value == 2**bits - 1:
            return bits
    return None
