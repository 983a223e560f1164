# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the frames (tiles) of a DICOM level are: by its table of their offsets in the file, and of their places.

OpenSlide ends the process on some wrong tables of offsets. It leaves out a frame whose place it does not know, and of
several frames in one place it shows one. So the tables are looked at first.
"""

from __future__ import annotations

import mmap
import re
from typing import Any, BinaryIO

import numpy as np

from monai_jsma.slides.errors import COPY_AGAIN

__all__ = ["FRAME_TAGS", "find_frame_fault"]

FRAME_TAGS = ("NumberOfFrames", "DimensionOrganizationType", "Rows", "Columns")  # that are needed of the header
_FULL, _SPARSE = "TILED_FULL", "TILED_SPARSE"
_PIXELS_TAG = 0x7FE00010
_PIXELS = b"\xe0\x7f\x10\0"  # the same as bytes; they are encapsulated if their length is not defined
_ENCAPSULATED = b"\xff\xff\xff\xff"
_ITEM = b"\xfe\xff\0\xe0"
_ITEM_BYTES = 8  # of an item's tag and length
_ONE_NEEDED = "a slide with one optical path and one focal plane is needed; export one of them."

# Of a sparse level every frame has an entry; parsed one by one they take seconds, so their bytes are searched.
_ENTRIES = b"\0\x52\x30\x92SQ"  # tag and type of PerFrameFunctionalGroupsSequence
_PIXEL_GROUP = re.compile(rb"\xe0\x7f(\x01\0OV|\x02\0OV|\x10\0O[BW])\0\0")
_COLUMN = re.compile(rb"\x48\0\x1e\x02SL\x04\0(.{4})", re.DOTALL)  # ColumnPositionInTotalImagePixelMatrix
_ROW = re.compile(rb"\x48\0\x1f\x02SL\x04\0(.{4})", re.DOTALL)  # RowPositionInTotalImagePixelMatrix


def find_frame_fault(file: BinaryIO, header: Any, *, num_bytes: int) -> str:
    """Why the frames of a level cannot be read correctly, or "".

    Args:
        file: the open file.
        header: the tags of :data:`FRAME_TAGS`, and the size of the level.
        num_bytes: length of the file.
    """
    organization = header.get("DimensionOrganizationType") or "not stated"
    if organization not in (_FULL, _SPARSE):
        return f"its DimensionOrganizationType is {organization}, neither {_FULL} nor {_SPARSE}; convert it."
    tile = np.array([int(header.get(name) or 0) for name in ("Rows", "Columns")])
    if tile.min() < 1:
        return f"its frames have {tile[0]} x {tile[1]} pixels; {COPY_AGAIN}"

    num_frames = int(header.get("NumberOfFrames") or 1)
    if num_frames < 1:
        return f"its NumberOfFrames is {num_frames}; {COPY_AGAIN}"
    size = np.array([int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)])
    if organization == _SPARSE:
        places = _read_places(file)
        fault = _find_place_fault(places, num_frames, tile=tile, size=size)
    else:
        _go_to_pixels(file)
        fault = _find_number_fault(num_frames, tile=tile, size=size)
    return _find_offset_fault(file, num_bytes, num_frames=num_frames) or fault


def _find_number_fault(num_frames: int, *, tile: np.ndarray, size: np.ndarray) -> str:
    """Why there are too many frames, or "". A file that is a part of a level has fewer."""
    num_places = int(np.prod(-(-size // tile)))
    if num_frames > num_places:
        return f"it has {num_frames} frames in {num_places} places, but {_ONE_NEEDED}"
    return ""


def _read_places(file: BinaryIO) -> np.ndarray:
    """First row and column of every frame of a sparse level, from 0; goes to the tags of the pixels."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = data.find(_ENTRIES)
        pixels = _PIXEL_GROUP.search(data, max(begin, 0))
        if begin < 0 or pixels is None:
            raise ValueError("no PerFrameFunctionalGroupsSequence and pixels behind it")
        end = pixels.start()
        rows = b"".join(_ROW.findall(data, begin, end))
        columns = b"".join(_COLUMN.findall(data, begin, end))
    file.seek(end)
    if len(rows) != len(columns):
        raise ValueError(f"{len(rows) // 4} rows and {len(columns) // 4} columns of frames")
    return np.stack([np.frombuffer(rows, "<i4"), np.frombuffer(columns, "<i4")], axis=1).astype(np.int64) - 1


def _find_place_fault(places: np.ndarray, num_frames: int, *, tile: np.ndarray, size: np.ndarray) -> str:
    """Why the places of the frames of a sparse level cannot be right, or "". Not every place needs a frame."""
    if len(places) != num_frames:
        return f"it states the places of {len(places)} of {num_frames} frames; {COPY_AGAIN}"
    is_wrong = ((places < 0) | (places >= size) | (places % tile != 0)).any(axis=1)
    if is_wrong.any():
        row, column = places[is_wrong][0]
        return f"it states a frame at row {row}, column {column}, where none can be; {COPY_AGAIN}"
    if len(np.unique(places, axis=0)) < num_frames:
        return f"it has several frames in one place, but {_ONE_NEEDED}"
    return ""


def _go_to_pixels(file: BinaryIO) -> None:
    """Go to the tags of the pixels, behind all others."""
    from pydicom.filereader import read_partial

    def is_pixel_group(tag: int, vr: str | None, length: int) -> bool:
        return tag >> 16 >= _PIXELS_TAG >> 16

    file.seek(0)
    read_partial(file, stop_when=is_pixel_group, specific_tags=[])


def _find_offset_fault(file: BinaryIO, num_bytes: int, *, num_frames: int) -> str:
    """Why a table of the frames' offsets cannot be right, or "".

    Args:
        file: the open file, at the tags of the pixels.
        num_bytes: its length.
        num_frames: number of frames that the header states.
    """
    extended = _read_extended_table(file)
    start = file.read(12)
    if start[:4] != _PIXELS or start[-4:] != _ENCAPSULATED:
        return ""  # frames of equal length, without a table
    item = file.read(8)
    table = file.read(int.from_bytes(item[4:], "little"))
    if item[:4] != _ITEM:
        return f"its table of offsets is not one of {num_frames} frames; {COPY_AGAIN}"

    end = num_bytes - file.tell() - 8  # of the mark behind the last frame
    for offsets in (np.frombuffer(table, "<u4"), np.frombuffer(extended, "<u8")):
        if len(offsets) == 0:
            continue  # there is none
        if len(offsets) != num_frames:
            return f"its table of offsets is not one of {num_frames} frames; {COPY_AGAIN}"
        gaps = np.diff(offsets.astype(np.int64), append=end)
        if offsets[0] != 0 or gaps.min() <= _ITEM_BYTES:
            return f"the offsets of its frames do not ascend within the file; {COPY_AGAIN}"
    return ""


def _read_extended_table(file: BinaryIO) -> bytes:
    """The table of offsets of 64 bits, if there is one; goes to the tag of the pixels."""
    from pydicom.filereader import read_dataset

    def is_pixels(tag: int, vr: str | None, length: int) -> bool:
        return tag == _PIXELS_TAG

    tables = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=is_pixels)
    return tables.get("ExtendedOffsetTable") or b""
