# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files before they are opened (is there one, is it a TIFF, has it changed); checksums, names, writes; SlideError."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

__all__ = [
    "COPY_AGAIN",
    "SlideError",
    "file_identity",
    "file_sha256",
    "file_stamp",
    "is_tiff",
    "region_name",
    "write_whole",
]


COPY_AGAIN = "copy the file again from its source."  # the way out of damage


class SlideError(RuntimeError):
    """A picture or slide that cannot be read as it should; the message begins with its path and says what to do."""


def file_stamp(path: str) -> tuple[int, int]:
    """Length in bytes and time of the last change in ns.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if it is a folder or has no bytes.
    """
    state = _state(path)
    return state.st_size, state.st_mtime_ns


def file_identity(path: str) -> str:
    """What tells a file, as it is now, from all others and from itself when it was another.

    The time that the file system keeps for itself (``ctime``) tells of a file that was exchanged for one of the same
    length and date.
    """
    state = _state(path)
    return repr((os.path.abspath(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns))


def _state(path: str) -> os.stat_result:
    try:
        state = os.stat(path)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{path}: there is no such file; correct the path in the datalist.") from e
    if stat.S_ISDIR(state.st_mode):
        raise SlideError(f"{path}: is a folder, not a picture or slide; name the file in it.")
    if state.st_size == 0:
        raise SlideError(f"{path}: the file is empty (0 bytes); copy it again from its source.")
    return state


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_tiff(path: str) -> bool:
    """Whether the first bytes are those of a TIFF file, classic or BigTIFF, of either byte order."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def write_whole(path: str | Path, text: str) -> Path:
    """Write a file, all of it or nothing, with its folder where that is missing. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8"))  # bytes: text mode would change the line ends on Windows
    os.replace(part, path)
    return path


def region_name(path: str, location: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> str:
    """A file name without ending for what is made of a file or region: its own, the place, six digits of its path.

    Args:
        path: the file, whose folder and suffix are told by the digits alone.
        location: row and column of the region.
        size: its height and width: regions may share a corner.
    """
    place = "_r{}_c{}".format(*location) if any(location) else ""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(path).stem)[:100].lstrip(".") or "picture"
    return f"{stem}{place}_{hashlib.sha256(f'{path}|{location}|{size}'.encode()).hexdigest()[:6]}"
