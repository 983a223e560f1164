# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""DICOM whole slides: which files of a folder are one slide.

A scanner writes each level of a slide, its label and its overview into files of their own, and may cut one level into
several files (a concatenation). They lie in one folder and state the same ``SeriesInstanceUID``; their names and their
order mean nothing. OpenSlide opens the whole series, whichever of its files is named. Only headers are read here.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO

from monai_jsma.slides.dicom_frames import FRAME_TAGS, find_frame_fault
from monai_jsma.slides.errors import COPY_AGAIN, SlideError

__all__ = [
    "DicomPart",
    "find_dicom_parts",
    "find_series_fault",
    "is_dicom",
    "list_level_sizes",
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
    "SOPClassUID", "SeriesInstanceUID", "Modality", "PatientID", "ImageType", "ContainerIdentifier",
    "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths",
    *FRAME_TAGS,
)  # fmt: skip
_MAX_HEADERS = 1 << 16  # headers kept in a process
_MAX_MAGICS = 1 << 10

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DicomPart:
    """What the header of one DICOM file says.

    Attributes:
        path: the file.
        series: ``SeriesInstanceUID``, or "" if it cannot be read.
        size: height and width of the level that it belongs to; 0 for a label or an overview.
        patient: ``PatientID``, or "".
        container: ``ContainerIdentifier``, the name of the glass slide, or "".
        fault: why it cannot be used, or "".
        is_damaged: whether that is damage, so that the other statements may be wrong too.
    """

    path: str
    series: str = ""
    size: tuple[int, int] = (0, 0)
    patient: str = ""
    container: str = ""
    fault: str = ""
    is_damaged: bool = False

    @property
    def num_pixels(self) -> int:
        """Number of pixels of the level."""
        return self.size[0] * self.size[1]


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


def find_dicom_parts(path: str) -> list[DicomPart]:
    """The headers of all files of the DICOM slide that a path names, the one to open first; none of another slide.

    Args:
        path: a file of the slide, or the folder of a DICOM series.

    Raises:
        SlideError: if it is a folder that does not hold one DICOM series, a DICOM file that belongs to no whole slide,
            or a damaged one.
    """
    if os.path.isdir(path):
        return _choose_series(path)
    part = read_dicom_part(path)
    if part is None or not is_dicom(read_magic(path)):
        return []

    series = list_series(os.path.dirname(path))
    if part.series in series:
        return series[part.series]
    if part.is_damaged:
        raise SlideError(f"{path}: {part.fault}")
    raise SlideError(
        f"{path}: a DICOM file, but of no whole slide (VL Whole Slide Microscopy Image with ImageType VOLUME); name a "
        "file of the slide."
    )


def _choose_series(folder: str) -> list[DicomPart]:
    series = list_series(folder)
    if len(series) > 1:
        first = [os.path.basename(parts[0].path) for parts in series.values()]
        raise SlideError(
            f"{folder}: is a folder with {len(series)} DICOM slides; name a file of one of them, such as {first[0]}."
        )
    if not series:
        raise SlideError(f"{folder}: is a folder, not an image or slide; name the file in it.")
    [parts] = series.values()
    return parts


def list_level_sizes(parts: Iterable[DicomPart]) -> tuple[tuple[int, int], ...]:
    """Height and width of each level of a slide, finest first; several files may be one level."""
    sizes = {part.size for part in parts if part.num_pixels}
    return tuple(sorted(sizes, key=math.prod, reverse=True))


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
            if part.num_pixels:
                part = replace(part, fault=find_frame_fault(file, header, num_bytes=num_bytes))
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
    size = (0, 0)
    if is_level:
        fault = _find_level_fault(header)
    if is_level and not fault:
        size = (int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns))
    return DicomPart(
        path=path,
        series=series,
        size=size,
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
    kinds = header.get("ImageType") or ()
    if isinstance(kinds, str):  # pydicom's form of a single value
        kinds = (kinds,)
    kinds = [str(kind) for kind in kinds]
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


@lru_cache(maxsize=1024)
def _warn_once(path: str, fault: str) -> None:
    _logger.warning("%s: %s It is left out of the slides beside it.", path, fault)
