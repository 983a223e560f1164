# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""DICOM whole slides: which files of a folder are one slide.

A scanner writes each level of a slide, its label and its overview into files of their own, and may cut one level into
several files (a concatenation). They lie in one folder and state the same ``SeriesInstanceUID``; their names and their
order mean nothing. OpenSlide opens the whole series, whichever of its files is named. Only headers are read here.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from monai_jsma.slides.errors import COPY_AGAIN, SlideError

__all__ = [
    "DicomPart",
    "explain_no_slide",
    "find_series_fault",
    "is_dicom",
    "list_series",
    "read_dicom_part",
    "read_magic",
]

_MAGIC = slice(128, 132)  # after a preamble, which may be the header of a TIFF file
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # SOP class "VL Whole Slide Microscopy Image Storage"
_NO_LEVELS = {"LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER"}  # ImageType of what belongs to a slide beside its levels
_UID = re.compile(r"[0-9.]{1,64}")
_LAST_GROUP = 0x0048  # the group of the whole slide's size; behind it come one entry a tile, and the pixels
_TAGS = (
    "SOPClassUID", "SeriesInstanceUID", "Modality", "PatientID", "ImageType", "ContainerIdentifier", "NumberOfFrames",
    "DimensionOrganizationType", "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths",
)  # fmt: skip
_PIXELS = b"\xe0\x7f\x10\0"  # tag of the pixels; they are encapsulated if their length is not defined
_ENCAPSULATED = b"\xff\xff\xff\xff"
_ITEM = b"\xfe\xff\0\xe0"
_ITEM_BYTES = 8  # of an item's tag and length
_MAX_HEADERS = 1 << 16  # headers kept in a process
_MAX_MAGICS = 1 << 10

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DicomPart:
    """What the header of one DICOM file says.

    Attributes:
        path: the file.
        series: ``SeriesInstanceUID``, or "" if it cannot be read.
        num_pixels: number of pixels of the level that it belongs to; 0 for a label or an overview.
        patient: ``PatientID``, or "".
        container: ``ContainerIdentifier``, the name of the glass slide, or "".
        fault: why it cannot be used, or "".
        is_damaged: whether that is damage, so that the other statements may be wrong too.
    """

    path: str
    series: str = ""
    num_pixels: int = 0
    patient: str = ""
    container: str = ""
    fault: str = ""
    is_damaged: bool = False


def read_magic(path: str) -> bytes:
    """The first 132 bytes of a file, which tell a TIFF and a DICOM file; read once in a process."""
    state = os.stat(path)
    return _read_magic(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=_MAX_MAGICS)
def _read_magic(path: str, num_bytes: int, changed_ns: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MAGIC.stop)


def is_dicom(magic: bytes) -> bool:
    """Whether the first bytes of a file are those of a DICOM file."""
    return magic[_MAGIC] == b"DICM"


def read_dicom_part(path: str) -> DicomPart | None:
    """The header of a DICOM file; None if it is another kind of file."""
    state = os.stat(path)
    return _read_part(path, state.st_size, state.st_mtime_ns)


def list_series(folder: str) -> dict[str, list[DicomPart]]:
    """The whole slides in a folder: the files of each series, the one to open first.

    That is the one with the most pixels. A file whose header cannot be read belongs to the only series of the folder;
    where there are several, it is left out with a warning.

    Args:
        folder: the folder; what is in its subfolders belongs to other slides.
    """
    series = defaultdict(list)
    unknown = []
    with os.scandir(folder or ".") as entries:
        paths = sorted(os.path.join(folder, entry.name) for entry in entries if entry.is_file())
    for path in paths:
        part = read_dicom_part(path)
        if part is None:
            continue
        if part.series:
            series[part.series].append(part)
        else:
            unknown.append(part)

    slides = {}
    for uid, parts in series.items():
        if all(part.is_damaged for part in parts):
            unknown += parts  # the series may be what is damaged
        elif any(part.num_pixels or part.fault for part in parts):
            slides[uid] = sorted(parts, key=lambda part: (-part.num_pixels, part.path))
    if len(slides) == 1:
        [parts] = slides.values()
        parts += unknown
        return slides
    for part in unknown:
        _warn_once(part.path, part.fault)
    return slides


def find_series_fault(parts: Sequence[DicomPart]) -> str | None:
    """Why the files of a series are no slide that can be read correctly, or None if they are one."""
    for part in parts:
        if part.fault:
            return f"{part.path}: {part.fault}"
    return None


@lru_cache(maxsize=_MAX_HEADERS)
def _read_part(path: str, num_bytes: int, changed_ns: int) -> DicomPart | None:
    """The header of a file in one state; None if it is not DICOM."""
    if not is_dicom(read_magic(path)):
        is_named_so = path.lower().endswith(".dcm") and not os.path.basename(path).startswith("._")
        return DicomPart(path=path, fault=f"not a DICOM file; {COPY_AGAIN}") if is_named_so else None
    header: Any = {}
    try:
        with open(path, "rb") as file:
            header = _read_tags(file)
            part = _describe_part(path, header)
            if part.num_pixels and header.get("DimensionOrganizationType") != "TILED_SPARSE":
                fault = _find_offset_fault(file, num_bytes, num_frames=int(header.get("NumberOfFrames") or 1))
                part = replace(part, fault=fault)
        return part
    except Exception as e:  # pydicom has no base class of its errors
        fault = f"the DICOM header is damaged ({e}); {COPY_AGAIN}"
        return DicomPart(path=path, series=_read_series(header), fault=fault, is_damaged=True)


def _describe_part(path: str, header: Any) -> DicomPart:
    series = _read_series(header)
    is_level = bool(series) and _is_level(header)
    has_size = bool(header.get("TotalPixelMatrixRows") and header.get("TotalPixelMatrixColumns"))
    if not series or (is_level and not has_size):
        fault = f"the DICOM header is cut short; {COPY_AGAIN}"
        return DicomPart(path=path, series=series, fault=fault, is_damaged=True)
    if not _UID.fullmatch(series):
        raise ValueError(f"SeriesInstanceUID {series!r}")

    fault = ""
    num_pixels = 0
    if is_level:
        fault = _find_level_fault(header)
        num_pixels = 0 if fault else int(header.TotalPixelMatrixRows) * int(header.TotalPixelMatrixColumns)
    return DicomPart(
        path=path,
        series=series,
        num_pixels=num_pixels,
        patient=str(header.get("PatientID") or "").strip(),
        container=str(header.get("ContainerIdentifier") or "").strip(),
        fault=fault,
    )


def _read_series(header: Any) -> str:
    try:
        return str(header.get("SeriesInstanceUID") or "")
    except Exception:  # as above
        return ""


def _read_tags(file: BinaryIO) -> Any:
    from pydicom.filereader import read_partial  # slow to import, and needed for DICOM only
    from pydicom.tag import Tag

    def is_behind(tag: int, vr: str | None, length: int) -> bool:
        return tag >> 16 > _LAST_GROUP

    return read_partial(file, stop_when=is_behind, specific_tags=[Tag(name) for name in _TAGS])


def _is_level(header: Any) -> bool:
    """Whether a file holds a level of a whole slide, not its label, its overview or annotations of it.

    Raises:
        ValueError: if that cannot be known; OpenSlide would leave a level out.
    """
    kinds = [str(kind) for kind in header.get("ImageType") or ()]
    uid = header.get("SOPClassUID")
    if uid != _WHOLE_SLIDE:
        if header.get("Modality") == "SM":
            raise ValueError(f"SOPClassUID {uid} of a slide microscope")
        return False
    if "VOLUME" not in kinds and not _NO_LEVELS.intersection(kinds):
        raise ValueError(f"ImageType {kinds}")
    return "VOLUME" in kinds


def _find_level_fault(header: Any) -> str:
    """Why a level cannot be read correctly, or ""."""
    for name, things in (("NumberOfOpticalPaths", "optical paths"), ("TotalPixelMatrixFocalPlanes", "focal planes")):
        number = header.get(name)
        if number is not None and int(number) > 1:
            return f"it has {number} {things}, but a slide with one is needed; export one of them."
    return ""


def _find_offset_fault(file: BinaryIO, num_bytes: int, *, num_frames: int) -> str:
    """Why the table of the frames' offsets cannot be right, or "". OpenSlide would end the process on such a table.

    Sparse slides are not asked: their headers have an entry for each frame, which takes long to read.

    Args:
        file: the open file.
        num_bytes: its length.
        num_frames: number of frames that the header states.
    """
    _seek_pixels(file)
    start = file.read(12)
    if start[:4] != _PIXELS or start[-4:] != _ENCAPSULATED:
        return ""  # frames of equal length, without a table
    item = file.read(8)
    table_bytes = int.from_bytes(item[4:], "little")
    if table_bytes == 0:
        return ""  # there is none

    if item[:4] != _ITEM or table_bytes != 4 * num_frames:
        return f"its table of offsets is not one of {num_frames} frames; {COPY_AGAIN}"
    offsets = np.frombuffer(file.read(table_bytes), "<u4").astype(np.int64)
    end = num_bytes - file.tell() - 8  # of the mark behind the last frame
    gaps = np.diff(offsets, append=end)
    if len(offsets) < num_frames or offsets[0] != 0 or gaps.min() <= _ITEM_BYTES:
        return f"the offsets of its frames do not ascend within the file; {COPY_AGAIN}"
    return ""


def _seek_pixels(file: BinaryIO) -> None:
    """Go to the tag of the pixels, behind all others."""
    from pydicom.filereader import read_partial

    def is_pixels(tag: int, vr: str | None, length: int) -> bool:
        return tag == 0x7FE00010

    file.seek(0)
    read_partial(file, stop_when=is_pixels, specific_tags=[])


@lru_cache(maxsize=1024)
def _warn_once(path: str, fault: str) -> None:
    _logger.warning("%s: %s It is left out of the slides beside it.", path, fault)


def explain_no_slide(path: str) -> SlideError:
    """The error of a DICOM file that belongs to no whole slide."""
    return SlideError(
        f"{path}: a DICOM file, but of no whole slide (VL Whole Slide Microscopy Image with ImageType VOLUME); name a "
        "file of the slide."
    )
