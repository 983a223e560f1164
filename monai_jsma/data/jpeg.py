# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Is a JPEG stream whole? A cheap look at its markers, since decoders paint damage without raising an error.

Seen are: a stream that is cut short, a header that no decoder accepts, a picture of another size than its tile, and
markers where coded pixels should be. Changed bits inside the coded pixels are not seen; only a checksum finds those.
"""

from __future__ import annotations

import re
from functools import lru_cache

import imagecodecs

__all__ = ["check_jpeg", "scan_jpeg"]

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 ... SOF15 without DHT, JPG and DAC
_NO_SEGMENT = {0x00, *range(0xD0, 0xDA)}  # stuffing, restarts, begin and end: these have no length
_AFTER_SCAN = {0xC4, 0xCC, _SOS, *range(0xDB, 0xF0), 0xFE}  # tables, comments and further scans of a progressive stream
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed 0xFF, nor a fill byte, nor a restart


def scan_jpeg(data: bytes) -> tuple[tuple[int, int], int]:
    """Walk the markers of a JPEG stream to its end.

    Returns:
        Height and width that the stream states, and the number of bytes up to the first coded pixel.

    Raises:
        ValueError: if a marker is missing, cut off or out of place.
    """
    if data[:2] != bytes((0xFF, _SOI)):
        raise ValueError("does not begin as a JPEG stream")
    position, size, header = 2, None, None
    while True:
        marker, begin, end = _segment(data, position)
        if marker in _FRAMES:
            size = int.from_bytes(data[begin + 3 : begin + 5]), int.from_bytes(data[begin + 5 : begin + 7])
        position = end
        if marker == _SOS:
            header = header or end
            found = _MARKER.search(data, end)
            if found is None or size is None:
                raise ValueError("JPEG stream is cut short")
            marker, position = data[found.end() - 1], found.start()
            if marker == _EOI:
                return size, header
            if marker not in _AFTER_SCAN:
                raise ValueError(f"JPEG stream has marker 0x{marker:02X} among its coded pixels")


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Marker at ``position``, first byte of its length field, and first byte after the segment."""
    while data[position : position + 2] == b"\xff\xff":  # fill bytes
        position += 1
    begin = position + 2
    end = begin + int.from_bytes(data[begin : begin + 2])
    if data[position : position + 1] != b"\xff" or begin + 2 > end or end > len(data) or data[begin - 1] in _NO_SEGMENT:
        raise ValueError("JPEG header is damaged or cut short")
    return data[begin - 1], begin, end


def check_jpeg(data: bytes, tables: bytes | None, limit: tuple[int, int]) -> tuple[int, int]:
    """Check a JPEG tile and its shared ``tables``.

    Args:
        data: the tile's bytes.
        tables: the page's JPEGTables, or None.
        limit: height and width of the tile, which the stream must not exceed.

    Returns:
        Height and width of the picture in the tile.

    Raises:
        ValueError: if the stream is damaged.
    """
    size, header = scan_jpeg(data)
    if size[0] > limit[0] or size[1] > limit[1] or min(size) < 1:
        raise ValueError(f"JPEG stream is {size[0]} x {size[1]} in a tile of {limit[0]} x {limit[1]}")
    _try_header(data[:header], tables)
    return size


@lru_cache(maxsize=64)
def _try_header(header: bytes, tables: bytes | None) -> None:
    """Let a strict decoder read the header alone; the tiles of a slide share one or a few headers."""
    try:
        imagecodecs.jpeg8_decode(header + bytes((0xFF, _EOI)), tables=tables)
    except RuntimeError as e:
        raise ValueError(f"JPEG header is damaged: {e}") from e
