# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which file it is: whether it exists, whether it has changed since it was inspected, and whose format it has."""

from __future__ import annotations

import os
import stat

import openslide

from monai_jsma.slides.errors import SlideError

__all__ = ["file_identity", "file_stamp", "find_vendor"]

_PLAIN_TIFF = {None, "generic-tiff", "aperio"}  # OpenSlide's names of the files whose tags say everything


def file_stamp(path: str) -> tuple[int, int]:
    """Length in bytes and time of the last change in ns.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if it is a folder or has no bytes.
    """
    state = _read_state(path)
    return state.st_size, state.st_mtime_ns


def file_identity(path: str) -> str:
    """A text that differs between any two files, and between two states of the same file.

    The time that the file system keeps for itself (``ctime``) also differs where a file was replaced by one of the
    same length and date.
    """
    state = _read_state(path)
    return repr((os.path.abspath(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns))


def find_vendor(path: str) -> str | None:
    """OpenSlide's name of the vendor if only OpenSlide can put the slide together, else None."""
    vendor = openslide.OpenSlide.detect_format(path)
    return None if vendor in _PLAIN_TIFF else vendor


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
