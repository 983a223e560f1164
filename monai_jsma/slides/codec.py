# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Is a JPEG stream whole? A cheap look at its markers, since decoders paint damage without raising an error.

Detected are: a stream that is cut short, a header that no decoder accepts, an image of another size than its tile, and
markers where coded pixels should be. Changed bits inside the coded pixels are not; only a checksum finds those.
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


def check_jpeg(
    data: bytes, tables: bytes | None, limit: tuple[int, int], *, like: JpegHeader | None = None
) -> JpegHeader:
    """Check a JPEG tile and its shared ``tables``.

    Args:
        data: bytes of the tile.
        tables: the page's JPEGTables, or None.
        limit: height and width of the tile, which the stream must not exceed.
        like: header of another tile of the page that was found good; a tile that begins alike is checked faster.

    Returns:
        The header of the tile.

    Raises:
        ValueError: if the stream is damaged.
    """
    if like is not None and data.startswith(like.data):
        header = like
    else:
        header = _read_header(data)
        height, width = header.size
        if height > limit[0] or width > limit[1] or min(header.size) < 1:
            raise ValueError(f"JPEG stream is {height} x {width} in a tile of {limit[0]} x {limit[1]}")
        _try_header(header.data, tables)

    _walk_scans(data, len(header.data))
    return header


def _read_header(data: bytes) -> JpegHeader:
    if data[:2] != bytes((0xFF, _SOI)):
        raise ValueError("does not begin as a JPEG stream")

    size = None
    segment = _Segment(_SOI, 0, 2)
    while segment.marker != _SOS:
        segment = _read_segment(data, segment.end)
        if segment.marker in _FRAMES:
            frame = segment.begin + 3  # after the length and the precision
            height = int.from_bytes(data[frame : frame + 2])
            width = int.from_bytes(data[frame + 2 : frame + 4])
            size = (height, width)

    if size is None:
        raise ValueError("JPEG header states no size")
    return JpegHeader(size, data[: segment.end])


def _walk_scans(data: bytes, position: int) -> None:
    """From the first coded pixel to the end of the stream."""
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            raise ValueError("JPEG stream is cut short")
        marker = data[match.end() - 1]
        if marker == _EOI:
            return
        if marker not in _AFTER_SCAN:
            raise ValueError(f"JPEG stream has marker 0x{marker:02X} among its coded pixels")

        segment = _read_segment(data, match.start())
        while segment.marker != _SOS:  # tables and comments before the next scan
            segment = _read_segment(data, segment.end)
        position = segment.end


class _Segment(NamedTuple):
    """A marker, the first byte of its length, and the first byte after its content."""

    marker: int
    begin: int
    end: int


def _read_segment(data: bytes, position: int) -> _Segment:
    while data[position : position + 2] == b"\xff\xff":  # fill bytes
        position += 1

    begin = position + 2
    end = begin + int.from_bytes(data[begin : begin + 2])
    is_whole = begin + 2 <= end <= len(data)
    if data[position : position + 1] != b"\xff" or not is_whole or data[begin - 1] in _NO_SEGMENT:
        raise ValueError("JPEG header is damaged or cut short")
    return _Segment(data[begin - 1], begin, end)


@lru_cache(maxsize=64)
def _try_header(header: bytes, tables: bytes | None) -> None:
    """Let a strict decoder read the header alone; the tiles of a slide share one or a few headers."""
    try:
        imagecodecs.jpeg8_decode(header + bytes((0xFF, _EOI)), tables=tables)
    except RuntimeError as e:
        raise ValueError(f"JPEG header is damaged: {e}") from e
