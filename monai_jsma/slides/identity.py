# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What one slide is: all its files, whether they have changed since it was inspected, their checksum and their key.

Most slides are one file. Several are

* DICOM: the files of one series in a folder, see :mod:`monai_jsma.slides.dicom`; the folder may be named instead, if
  it holds one series,
* MIRAX: ``a.mrxs`` and all files in the folder ``a`` beside it,
* Hamamatsu VMS and VMU: the index ``a.vms`` or ``a.vmu``, and the files that it names.

A vendor's file that holds only a preview, or whose other files are missing, is refused: never is the preview taken for
the slide.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import openslide

from monai_jsma._io import IMAGE_SUFFIXES, file_sha256, is_system_name
from monai_jsma.slides.dicom import DicomPart, find_dicom_parts, find_series_fault, list_level_sizes
from monai_jsma.slides.errors import COPY_AGAIN, SlideError

__all__ = [
    "SlideFiles",
    "Stamp",
    "file_stamp",
    "find_slide_files",
    "find_slide_key",
    "find_vendor",
    "group_slide_files",
    "list_slide_files",
    "may_be_several_files",
    "refuse_preview",
    "refuse_unknown_vendor",
    "slide_identity",
    "slide_sha256",
    "slide_stamp",
]

Stamp = tuple[int, ...]  # of each file: length in bytes and time of the last change in ns

_PLAIN_TIFF = {None, "generic-tiff", "aperio"}  # OpenSlide's names of the files whose tags say everything
_INDEX_SUFFIXES = (".vms", ".vmu")
_MAX_INDEX_BYTES = 1 << 20  # of a VMS or VMU index, which has some kB

_VENDORS = {  # suffixes of slides that OpenSlide puts together
    ".bif": "Ventana",
    ".mrxs": "MIRAX",
    ".ndpi": "Hamamatsu",
    ".scn": "Leica",
    ".svslide": "Sakura",
    ".vms": "Hamamatsu",
    ".vmu": "Hamamatsu",
}
_NO_READER = {  # suffixes of slides that no reader here can read; some begin with a preview that others can
    ".afi": "Aperio fluorescence",
    ".czi": "Zeiss",
    ".ets": "Olympus",
    ".i2syntax": "Philips iSyntax",
    ".isyntax": "Philips iSyntax",
    ".kfb": "KFBio",
    ".lif": "Leica",
    ".lsm": "Zeiss",
    ".mds": "Motic",
    ".ndpis": "Hamamatsu fluorescence",
    ".oir": "Olympus",
    ".sdpc": "Sqray",
    ".tmap": "Unic",
    ".vsi": "Olympus",
    ".zvi": "Zeiss",
}


# --------------------------------------------------------------------------------------------------- the files of one


@dataclass(frozen=True, kw_only=True)
class SlideFiles:
    """All files of one slide, as they were when they were listed.

    Attributes:
        path: the path that names the slide: a file of it, or the folder of a DICOM series.
        files: all its files, the one to open first.
        stamp: length in bytes and time of the last change (ns) of each of them.
        identity: a text that differs between any two slides, and between two states of the same slide.
        level_sizes: height and width of each level of a DICOM series, finest first; empty of other slides.
    """

    path: str
    files: tuple[str, ...]
    stamp: Stamp
    identity: str
    level_sizes: tuple[tuple[int, int], ...] = ()


def find_slide_files(path: str) -> SlideFiles:
    """The files of a slide that is about to be opened.

    Args:
        path: a file of the slide, or the folder of a DICOM series.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: as in :func:`list_slide_files`, if nothing here can read the vendor's format, and if the files of a
            DICOM series do not make one slide.
    """
    refuse_unknown_vendor(path)
    parts = _find_parts(path)
    fault = find_series_fault(parts)
    if fault is not None:
        raise SlideError(fault)
    files = _list_files(path, parts)
    states = [os.stat(file) for file in files]  # asked once: stamp and identity are of the same moment
    return SlideFiles(
        path=path,
        files=files,
        stamp=_make_stamp(states),
        identity=_make_identity(files[0], states),
        level_sizes=list_level_sizes(parts),
    )


def list_slide_files(path: str) -> tuple[str, ...]:
    """All files of the slide that a path names, the one to open first.

    Args:
        path: a file of the slide, or the folder of a DICOM series.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if it is a folder that does not hold one DICOM series, a file without bytes, or a DICOM file that
            belongs to no whole slide.
    """
    return _list_files(path, _find_parts(path))


def _find_parts(path: str) -> list[DicomPart]:
    if not os.path.isdir(path):
        _read_state(path)
    return find_dicom_parts(path)


def _list_files(path: str, parts: Sequence[DicomPart]) -> tuple[str, ...]:
    if parts:
        return tuple(part.path for part in parts)
    suffix = Path(path).suffix.lower()
    if suffix == ".mrxs":
        return (path, *_list_folder(os.path.splitext(path)[0]))
    if suffix in _INDEX_SUFFIXES:
        return (path, *_list_indexed(path))
    return (path,)


def _list_folder(folder: str) -> list[str]:
    """All files in a folder and its subfolders, sorted; none if there is no such folder."""
    paths = []
    for root, _, names in os.walk(folder):
        for name in names:
            if not is_system_name(name):
                paths.append(os.path.join(root, name))
    return sorted(paths)


def _list_indexed(path: str) -> list[str]:
    """The files that a VMS or VMU index names, as far as they are there, sorted."""
    with open(path, "rb") as file:
        text = file.read(_MAX_INDEX_BYTES).decode("latin-1")

    folder = os.path.dirname(path)
    paths = set()
    for line in text.splitlines():
        _, is_entry, name = line.partition("=")
        part = os.path.join(folder, name.strip())
        if is_entry and name.strip() and os.path.isfile(part):
            paths.add(part)
    return sorted(paths)


def may_be_several_files(path: str | Path) -> bool:
    """Whether the name of a slide leaves it open that it has several files, or is a file of another one."""
    suffix = Path(path).suffix.lower()
    return suffix in _VENDORS or suffix == ".dcm" or suffix not in IMAGE_SUFFIXES


def group_slide_files(paths: Iterable[Path]) -> dict[Path, Path]:
    """The slide of each file: the file to open where several are one slide, else the file itself.

    A file that cannot be read is a slide of its own, so that the error of opening it is not lost.

    Args:
        paths: files of images and slides.
    """
    paths = list(paths)
    slide_of: dict[Path, Path] = {}
    for path in paths:
        if path in slide_of:
            continue
        try:
            first, *others = list_slide_files(str(path))
        except (SlideError, OSError):
            continue
        for part in others:
            slide_of[Path(part)] = Path(first)
    return {path: slide_of.get(path, path) for path in paths}


# ---------------------------------------------------------------------------------------------------- its identities


def file_stamp(path: str) -> tuple[int, int]:
    """Length in bytes and time of the last change in ns of one file.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if it is a folder or has no bytes.
    """
    state = _read_state(path)
    return state.st_size, state.st_mtime_ns


def slide_stamp(path: str) -> Stamp:
    """Length in bytes and time of the last change in ns of each file of a slide; raises as :func:`list_slide_files`."""
    return _make_stamp([os.stat(file) for file in list_slide_files(path)])


def _make_stamp(states: Iterable[os.stat_result]) -> Stamp:
    stamp: Stamp = ()
    for state in states:
        stamp += (state.st_size, state.st_mtime_ns)
    return stamp


def slide_sha256(path: str | Path) -> str:
    """One checksum of all files of a slide, in hexadecimal.

    It is the SHA-256 of the file's bytes; of several files it is the SHA-256 of theirs, each in hexadecimal and a line,
    sorted, each once. So the names of the files do not change it.

    Raises:
        FileNotFoundError, SlideError: as :func:`list_slide_files`.
    """
    files = list_slide_files(str(path))
    checksums = {file_sha256(file) for file in files}
    if len(checksums) == 1:
        return checksums.pop()
    lines = "\n".join(sorted(checksums))
    return hashlib.sha256(lines.encode()).hexdigest()


def slide_identity(path: str) -> str:
    """A text that differs between any two slides, and between two states of the same slide.

    It is the same whichever of its files is named. The time that the file system keeps for itself (``ctime``) also
    differs where a file was replaced by one of the same length and date.

    Raises:
        FileNotFoundError, SlideError: as :func:`list_slide_files`.
    """
    files = list_slide_files(path)
    return _make_identity(files[0], [os.stat(file) for file in files])


def _make_identity(first_file: str, states: Iterable[os.stat_result]) -> str:
    identity: list[str | int] = [os.path.abspath(first_file)]
    for state in states:
        identity += [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    return repr(tuple(identity))


def find_slide_key(path: str) -> str:
    """What a copy of a slide has in common with it even if files were renamed, added or lost; "" if nothing is known.

    It is the series of a DICOM slide, and OpenSlide's quickhash of a slide that only OpenSlide can put together.

    Raises:
        FileNotFoundError, SlideError: as :func:`list_slide_files`.
    """
    parts = _find_parts(path)
    if parts:
        return f"DICOM series {parts[0].series}"
    if Path(path).suffix.lower() not in _VENDORS:
        return ""
    try:
        with openslide.OpenSlide(path) as slide:
            quickhash = slide.properties.get(openslide.PROPERTY_NAME_QUICKHASH1, "")
    except openslide.OpenSlideError:
        return ""
    return f"quickhash {quickhash}" if quickhash else ""


# -------------------------------------------------------------------------------------------------- previews, vendors


def find_vendor(path: str) -> str | None:
    """OpenSlide's name of the vendor if only OpenSlide can put the slide together, else None."""
    vendor = openslide.OpenSlide.detect_format(path)
    return None if vendor in _PLAIN_TIFF else vendor


def refuse_unknown_vendor(path: str) -> None:
    """Refuse the slide of a vendor whose format nothing here can read.

    Raises:
        SlideError: if the suffix is one of theirs.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _NO_READER:
        raise SlideError(
            f"{path}: {_NO_READER[suffix]} slides ({suffix}) cannot be read; what other programs can read of it may be "
            "a preview. Convert it to a tiled TIFF pyramid, for example with bfconvert of Bio-Formats or with QuPath."
        )


def refuse_preview(path: str, vendor: str | None) -> None:
    """Refuse a vendor's file that would be read as an ordinary image, which is a preview at best.

    Args:
        path: the file.
        vendor: OpenSlide's name of the vendor, None if it knows none.

    Raises:
        SlideError: if the suffix is a vendor's, but no reader of theirs can read the file.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _VENDORS or vendor is not None:
        return
    if suffix == ".mrxs":
        folder = os.path.splitext(path)[0]
        raise SlideError(
            f"{path}: only a preview; the slide is in the folder {folder}, which is missing or has no Slidedat.ini: "
            "copy the folder beside the file."
        )
    raise SlideError(
        f"{path}: not a {_VENDORS[suffix]} slide as its suffix {suffix} says, or parts of it are missing; "
        f"{COPY_AGAIN} If it is an ordinary image, give it the suffix of its format, such as .tif."
    )


def _read_state(path: str) -> os.stat_result:
    try:
        state = os.stat(path)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{path}: there is no such file; correct the path in the datalist.") from e

    if stat.S_ISDIR(state.st_mode):
        raise SlideError(f"{path}: is a folder, not an image or slide; name the file in it.")
    if state.st_size == 0:
        raise SlideError(f"{path}: the file is empty (0 bytes); copy it again from its source.")
    return state
