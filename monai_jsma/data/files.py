# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Picture files before they are opened: is there one, is it a TIFF, has it changed; and the error of all readers."""

from __future__ import annotations

import os

__all__ = ["COPY_AGAIN", "SlideError", "file_stamp", "is_tiff"]


COPY_AGAIN = "copy the file again from its source."  # the way out of damage


class SlideError(RuntimeError):
    """A picture or slide that cannot be read as it should; the message begins with its path and says what to do."""


def file_stamp(path: str) -> tuple[int, int]:
    """Length in bytes and time of the last change in ns.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if it is a folder or has no bytes.
    """
    try:
        state = os.stat(path)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{path}: there is no such file; correct the path in the datalist.") from e
    if os.path.isdir(path):
        raise SlideError(f"{path}: is a folder, not a picture or slide; name the file in it.")
    if state.st_size == 0:
        raise SlideError(f"{path}: the file is empty (0 bytes); copy it again from its source.")
    return state.st_size, state.st_mtime_ns


def is_tiff(path: str) -> bool:
    """Whether the first bytes are those of a TIFF file, classic or BigTIFF, of either byte order."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
