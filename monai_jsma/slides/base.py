# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What every reader does: windows of stored levels at integer coordinates, always wholly inside the level.

A reader of a slide holds no open file. It takes one from a small store of the process when it reads; so readers can be
pickled, copied, forked and shared by threads, and only a few files are open at a time, however many slides there are.
Coordinates are (row, column) of the level, sizes (height, width).
"""

from __future__ import annotations

import operator
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.identity import file_stamp
from monai_jsma.slides.spacing import StatedSpacing

__all__ = ["ArrayReader", "Reader", "SlideInfo", "SlideReader", "check_levels"]

_OPEN_SLIDES = 32  # at a time in a process
_OPENING = threading.Lock()  # cuCIM crashes if two threads open their first slides at the same moment
os.register_at_fork(after_in_child=_OPENING._at_fork_reinit)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class SlideInfo:
    """What is known of a picture or slide before any pixel of it is read.

    Attributes:
        path: the file.
        reader: "cucim", "tifffile", "openslide" or "pil".
        reason: what the file is, and what kept it from a reader that comes earlier in this list.
        level_sizes: height and width of each stored level, finest first.
        mpp: um per pixel of level 0, or None if unknown.
        mpp_source: who says so; if unknown, the statements that were turned down, or "".
        pages: of a tiled TIFF, the byte offset of the tags of each level.
        stamp: the file's length and time of change (ns), to notice that it was exchanged.
        spacings: every statement of the file about the size of its pixels, in order of trust.
    """

    path: str
    reader: str
    reason: str
    level_sizes: tuple[tuple[int, int], ...]
    mpp: float | None
    mpp_source: str
    pages: tuple[int, ...] = ()
    stamp: tuple[int, int] = (0, 0)
    spacings: tuple[StatedSpacing, ...] = field(default=(), compare=False)  # may hold NaN, which equals nothing

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of level 0."""
        return self.level_sizes[0]

    @property
    def lazy(self) -> bool:
        """Whether windows are read from the file; otherwise the whole picture is decoded to memory."""
        return self.reader != "pil"


class Reader(ABC):
    """Reads windows of the levels of one picture.

    Attributes:
        path: the file, for messages.
        level_sizes: height and width of each level, finest first.
        exact: per level, whether its pixels are the stored ones rather than within a tolerance.
    """

    path: str
    level_sizes: tuple[tuple[int, int], ...]
    exact: tuple[bool, ...]

    def read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A window of a level: ``uint8`` RGB of shape ``(height, width, 3)``.

        Raises:
            ValueError: if the window is empty or leaves the level.
            SlideError: if a tile under it is damaged.
        """
        if not 0 <= level < len(self.level_sizes):
            raise ValueError(f"{self.path}: level {level} is not one of its {len(self.level_sizes)} levels.")
        full = self.level_sizes[level]
        if min(row, col) < 0 or min(height, width) < 1 or row + height > full[0] or col + width > full[1]:
            raise ValueError(
                f"{self.path}: the window of {height} x {width} pixels at row {row}, column {col} is not inside level "
                f"{level} of {full[0]} x {full[1]}."
            )
        return self._read(*map(operator.index, (level, row, col, height, width)))

    @abstractmethod
    def _read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        """As :meth:`read`, with plain integers that are inside the level."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open in this process; a later read opens it again."""


class ArrayReader(Reader):
    """A picture in memory.

    Args:
        array: ``uint8`` of shape ``(height, width, 3)``.
        path: where it came from, for messages.
    """

    def __init__(self, array: np.ndarray, path: str = "") -> None:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{path}: a picture is uint8 (height, width, 3), but this is {array.dtype} {array.shape}.")
        self.array, self.path = array, path
        self.level_sizes, self.exact = ((array.shape[0], array.shape[1]),), (True,)

    def __getstate__(self) -> dict[str, Any]:
        """With a tensor for the pixels: worker processes send tensors in shared memory, arrays byte by byte."""
        return {**self.__dict__, "array": torch.from_numpy(np.require(self.array, requirements=["C", "W"]))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, array=state["array"].numpy())

    def _read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        return self.array[row : row + height, col : col + width]

    def close(self) -> None:
        """Nothing is open."""


class SlideReader(Reader):
    """A slide on disk, opened when it is first read from in a process.

    Args:
        info: what :func:`monai_jsma.slides.open.inspect_slide` found.
    """

    def __init__(self, info: SlideInfo) -> None:
        self.info, self.path, self.level_sizes = info, info.path, info.level_sizes
        self.exact = (True,) * len(info.level_sizes)

    def _opened(self) -> Any:
        with _OPENING:
            return _stored(type(self)._open, self.info, os.getpid())

    @staticmethod
    @abstractmethod
    def _open(info: SlideInfo) -> Any:
        """Open the file; the result closes it when it is forgotten."""

    def close(self) -> None:
        """Close all slides of this process; a later read opens them again."""
        _stored.cache_clear()


@lru_cache(maxsize=_OPEN_SLIDES)
def _stored(opener: Callable[[SlideInfo], Any], info: SlideInfo, process: int) -> Any:
    """The open file of a slide; ``process`` is part of the key, so that a forked child opens its own."""
    if file_stamp(info.path) != info.stamp:
        raise SlideError(f"{info.path}: the file was changed after it was inspected; inspect it again.")
    return opener(info)


def check_levels(info: SlideInfo, library: str, sizes: tuple[tuple[int, int], ...]) -> None:
    """Raise :class:`SlideError` unless a library sees the levels that the tags promised."""
    if sizes != info.level_sizes:
        raise SlideError(
            f"{info.path}: {library} has levels of {sizes}, but the tags say {info.level_sizes}; choose another reader."
        )
