# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Is a JPEG stream whole? A cheap look at its markers, since decoders paint damage without raising an error.

Seen are: a stream that is cut short, a header that no decoder accepts, a picture of another size than its tile, and
markers where coded pixels should be. Changed bits inside the coded pixels are not seen; only a checksum finds those.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import imagecodecs

__all__ = ["JpegHeader", "check_jpeg", "scan_jpeg"]

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 ... SOF15 without DHT, JPG and DAC
_NO_SEGMENT = {0x00, *range(0xD0, 0xDA)}  # stuffing, restarts, begin and end: these have no length
_AFTER_SCAN = {0xC4, 0xCC, _SOS, *range(0xDB, 0xF0), 0xFE}  # tables, comments and further scans of a progressive stream
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed 0xFF, nor a fill byte, nor a restart


class JpegHeader(NamedTuple):
    """Height and width that a JPEG stream states, and its bytes up to the first coded pixel."""

    size: tuple[int, int]
    data: bytes


def scan_jpeg(data: bytes) -> JpegHeader:
    """Walk the markers of a JPEG stream to its end.

    Raises:
        ValueError: if a marker is missing, cut off or out of place.
    """
    header = _read_header(data)
    _walk_scans(data, len(header.data))
    return header


def _read_header(data: bytes) -> JpegHeader:
    if data[:2] != bytes((0xFF, _SOI)):
        raise ValueError("does not begin as a JPEG stream")
    marker, size, end = _SOI, None, 2
    while marker != _SOS:
        marker, begin, end = _segment(data, end)
        if marker in _FRAMES:
            size = int.from_bytes(data[begin + 3 : begin + 5]), int.from_bytes(data[begin + 5 : begin + 7])
    if size is None:
        raise ValueError("JPEG header states no size")
    return JpegHeader(size, data[:end])


def _walk_scans(data: bytes, position: int) -> None:
    """From the first coded pixel to the end of the stream."""
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            raise ValueError("JPEG stream is cut short")
        marker, position = data[found.end() - 1], found.start()
        if marker == _EOI:
            return
        if marker not in _AFTER_SCAN:
            raise ValueError(f"JPEG stream has marker 0x{marker:02X} among its coded pixels")
        segment = None  # the marker that was found may itself begin the next scan: its segment is still to be passed
        while segment != _SOS:
            segment, _, position = _segment(data, position)


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Marker at ``position``, first byte of its length field, and first byte after the segment."""
    while data[position : position + 2] == b"\xff\xff":  # fill bytes
        position += 1
    begin = position + 2
    end = begin + int.from_bytes(data[begin : begin + 2])
    if data[position : position + 1] != b"\xff" or begin + 2 > end or end > len(data) or data[begin - 1] in _NO_SEGMENT:
        raise ValueError("JPEG header is damaged or cut short")
    return data[begin - 1], begin, end


def check_jpeg(data: bytes, tables: bytes | None, limit: tuple[int, int], like: JpegHeader | None = None) -> JpegHeader:
    """Check a JPEG tile and its shared ``tables``.

    Args:
        data: the tile's bytes.
        tables: the page's JPEGTables, or None.
        limit: height and width of the tile, which the stream must not exceed.
        like: the header of another tile of the page that was found good; a tile that begins alike is checked faster.

    Returns:
        The header of the tile.

    Raises:
        ValueError: if the stream is damaged.
    """
    if like is None or not data.startswith(like.data):
        like = _read_header(data)
        height, width = like.size
        if height > limit[0] or width > limit[1] or min(like.size) < 1:
            raise ValueError(f"JPEG stream is {height} x {width} in a tile of {limit[0]} x {limit[1]}")
        _try_header(like.data, tables)
    _walk_scans(data, len(like.data))
    return like


@lru_cache(maxsize=64)
def _try_header(header: bytes, tables: bytes | None) -> None:
    """Let a strict decoder read the header alone; the tiles of a slide share one or a few headers."""
    try:
        imagecodecs.jpeg8_decode(header + bytes((0xFF, _EOI)), tables=tables)
    except RuntimeError as e:
        raise ValueError(f"JPEG header is damaged: {e}") from e
