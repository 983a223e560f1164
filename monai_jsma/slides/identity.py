# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which file it is: whether there is one, and whether it has changed since it was looked at."""

from __future__ import annotations

import os
import stat

from monai_jsma.slides.errors import SlideError

__all__ = ["file_identity", "file_stamp"]


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
