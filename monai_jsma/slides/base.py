# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What every reader does: windows of stored levels at integer coordinates, always inside the level, as ``uint8`` RGB.

A reader of a slide holds no open file. It takes one from a small store of the process when it reads; so readers can be
pickled, copied, forked and shared by threads, and only a few files are open at a time, however many slides there are.

All readers give the same kind of pixels: gray is repeated, transparency is laid on white, 16 bits become 8 by
``v / 257`` rounded to the nearest (so 65535 is 255, as in libtiff and with it OpenSlide), and color profiles are
ignored. Where a file states fewer bits of data, the largest value of so many bits is 255. Coordinates are (row, column)
of the level, sizes (height, width), axes (row, column, color).
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from operator import index
from typing import Any, ClassVar, NamedTuple

import numpy as np

from monai_jsma.geometry import Box
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.identity import Stamp, slide_stamp
from monai_jsma.slides.spacing import StatedSpacing

__all__ = [
    "MAX_OPEN",
    "ArrayReader",
    "Header",
    "Layout",
    "Reader",
    "SlideInfo",
    "SlideReader",
    "check_levels",
    "to_rgb",
]

_BLOCK_SAMPLES = 1 << 22
MAX_OPEN = 32  # slides open at a time in a process
_OPENING = threading.Lock()  # cuCIM crashes if two threads open their first slides at the same moment
os.register_at_fork(after_in_child=_OPENING._at_fork_reinit)  # type: ignore[attr-defined]

Sizes = tuple[tuple[int, int], ...]  # height and width of each level, finest first


# ------------------------------------------------------------------------------------------- before a pixel is read


@dataclass(frozen=True, eq=False, kw_only=True)
class Header:
    """What a file says before any pixel of it is read: the readers decide by it whether they can read the file.

    Attributes:
        path: the file.
        stamp: length in bytes and time of the last change (ns) of each of its files.
        summary: one phrase about it: "tiled JPEG, RGB, uint8".
        lazy: whether windows can be read without decoding the whole image.
        vendor: OpenSlide's name of the vendor if only OpenSlide can put the slide together, else None.
        level_sizes: height and width of each level, finest first; empty where only OpenSlide knows.
        spacings: every statement about the size of the pixels, in order of trust.
        files: all files of the slide, the one to open first, if it has several.
    """

    path: str
    stamp: Stamp
    summary: str
    lazy: bool = False
    vendor: str | None = None
    level_sizes: Sizes = ()
    spacings: tuple[StatedSpacing, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The file that a library opens."""
        return self.files[0] if self.files else self.path


class Layout(NamedTuple):
    """What a reader says of a slide.

    Attributes:
        level_sizes: height and width of each level, finest first.
        spacings: every statement about the size of the pixels, in order of trust.
        bounds: the scanned part of the canvas in level-0 pixels; None if it is all.
    """

    level_sizes: Sizes
    spacings: tuple[StatedSpacing, ...]
    bounds: Box | None = None


@dataclass(frozen=True, kw_only=True)
class SlideInfo:
    """How an image or slide is read: its reader, its levels and its spacing.

    Attributes:
        path: the file; or the folder, or any file, of a slide of several files.
        reader: "cucim", "tifffile", "openslide" or "pil".
        reason: what the file is, and what kept it from a reader that comes earlier in this list.
        level_sizes: height and width of each stored level, finest first.
        mpp: um per pixel of level 0, or None if unknown.
        mpp_source: which statement is believed; if none, the rejected statements, or "".
        stamp: length in bytes and time of the last change (ns) of each of its files, to notice that one was replaced.
        spacings: every statement of the file about the size of its pixels, in order of trust.
        bounds: the scanned part of the canvas in level-0 pixels (:mod:`monai_jsma.slides.frame`); None if it is all.
        files: all files of the slide, the one to open first, if it has several.
        identity: a text that differs between any two slides, and between two states of the same slide.
        strict: whether every JPEG tile is decoded twice more, to see whether its coded pixels reach to its end.
    """

    path: str
    reader: str
    reason: str
    level_sizes: Sizes
    mpp: float | None
    mpp_source: str
    stamp: Stamp = (0, 0)
    spacings: tuple[StatedSpacing, ...] = field(default=(), compare=False)  # may hold NaN, which equals nothing
    bounds: Box | None = None
    files: tuple[str, ...] = field(default=(), compare=False)
    identity: str = field(default="", compare=False)
    strict: bool = False

    @property
    def file(self) -> str:
        """The file that a library opens."""
        return self.files[0] if self.files else self.path

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of level 0."""
        return self.level_sizes[0]

    @property
    def lazy(self) -> bool:
        """Whether windows are read from the file; otherwise the whole image is decoded to memory."""
        return self.reader != "pil"


# --------------------------------------------------------------------------------------------------------- readers


class Reader(ABC):
    """Reads windows of the levels of one image.

    Attributes:
        path: the file, for messages.
        level_sizes: height and width of each level, finest first.
        exact: per level, whether its pixels are the stored ones rather than within a tolerance.
        bounds: the scanned part of the canvas in level-0 pixels; None if it is all.
    """

    path: str
    level_sizes: Sizes
    exact: tuple[bool, ...]
    bounds: Box | None = None

    def read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Read a window of a level.

        Args:
            level: number of the level, 0 is the finest.
            location: row and column of the window's top-left corner, in pixels of the level.
            size: height and width of the window, in pixels of the level.

        Returns:
            ``uint8`` RGB of shape ``(height, width, 3)``.

        Raises:
            ValueError: if the window is empty or leaves the level.
            SlideError: if a tile under it is damaged.
        """
        if not 0 <= level < len(self.level_sizes):
            raise ValueError(f"{self.path}: level {level} is not one of its {len(self.level_sizes)} levels.")

        row, col = location
        height, width = size
        full_height, full_width = self.level_sizes[level]
        rows_inside = 0 <= row < row + height <= full_height
        cols_inside = 0 <= col < col + width <= full_width
        if not (rows_inside and cols_inside):
            raise ValueError(
                f"{self.path}: the window of {height} x {width} pixels at row {row}, column {col} is not inside level "
                f"{level} of {full_height} x {full_width}."
            )
        location = (index(row), index(col))
        size = (index(height), index(width))
        return self._read(index(level), location, size)

    @abstractmethod
    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """As :meth:`read`, with plain integers that are inside the level."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open in this process; a later read opens it again."""


class ArrayReader(Reader):
    """An image in memory, with one level.

    Args:
        array: pixels, ``uint8`` of shape ``(height, width, 3)``.
        path: the file it came from, for messages.
    """

    def __init__(self, array: np.ndarray, path: str = "") -> None:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{path}: an image is uint8 (height, width, 3), but this is {array.dtype} {array.shape}.")
        height, width = array.shape[:2]
        self.array = array
        self.path = path
        self.level_sizes = ((height, width),)
        self.exact = (True,)

    def __getstate__(self) -> dict[str, Any]:
        """With a tensor for the pixels: worker processes send tensors in shared memory, arrays byte by byte."""
        import torch  # where there is none, there are no such worker processes

        pixels = np.require(self.array, requirements=["C", "W"])
        return {**self.__dict__, "array": torch.from_numpy(pixels)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.array = state["array"].numpy()

    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        row, col = location
        height, width = size
        return self.array[row : row + height, col : col + width]

    def close(self) -> None:
        """Nothing is open."""


class SlideReader(Reader):
    """A slide on disk, opened when it is first read from in a process.

    Args:
        info: result of :func:`monai_jsma.slides.inspect_slide`.
    """

    name: ClassVar[str]  # in ``SlideInfo.reader`` and in the argument ``reader``
    lazy: ClassVar[bool] = True  # windows are read from the file

    def __init__(self, info: SlideInfo) -> None:
        self.info = info
        self.path = info.path
        self.level_sizes = info.level_sizes
        self.exact = (True,) * len(info.level_sizes)
        self.bounds = info.bounds

    @classmethod
    @abstractmethod
    def refuses(cls, header: Header) -> str | None:
        """Why this reader cannot read the file correctly, or None if it can."""

    @classmethod
    def describe(cls, header: Header) -> Layout:
        """Levels, spacings and bounds of the slide, as this reader gives it."""
        return Layout(header.level_sizes, header.spacings)

    @classmethod
    def open(cls, info: SlideInfo) -> Reader:
        """A reader of the slide; the file itself is opened at the first read."""
        return cls(info)

    @staticmethod
    @abstractmethod
    def _open(info: SlideInfo) -> Any:
        """Open the file; the result closes it when it is forgotten."""

    def open_file(self) -> Any:
        """The open file of this process; opened now if it is not."""
        with _OPENING:
            return _open_once(type(self)._open, self.info, os.getpid())

    def close(self) -> None:
        """Close all slides of this process; a later read opens them again."""
        _open_once.cache_clear()


@lru_cache(maxsize=MAX_OPEN)
def _open_once(opener: Callable[[SlideInfo], Any], info: SlideInfo, process: int) -> Any:
    """The open file of a slide; ``process`` is part of the key, so that a forked child opens its own."""
    if slide_stamp(info.path) != info.stamp:
        raise SlideError(f"{info.path}: {_name_change(info)} changed after it was inspected; inspect it again.")
    return opener(info)


def _name_change(info: SlideInfo) -> str:
    return "the file was" if len(info.files) < 2 else "one of its files was"


def check_levels(info: SlideInfo, library: str, sizes: Sizes) -> None:
    """Raise :class:`SlideError` unless a library sees the levels that the tags promised."""
    if sizes != info.level_sizes:
        raise SlideError(
            f"{info.path}: {library} has levels of {sizes}, but the tags say {info.level_sizes}; choose another reader."
        )


# ---------------------------------------------------------------------------------------------------------- pixels


def to_rgb(pixels: np.ndarray, *, premultiplied: bool = False, depth: int = 16) -> np.ndarray:
    """Convert pixels of 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) samples to RGB on white.

    Args:
        pixels: ``uint8`` or ``uint16`` of shape ``(height, width, samples)``.
        premultiplied: whether the colors were already multiplied by alpha.
        depth: bits of a 16-bit sample that hold data; the largest value of so many bits becomes 255.

    Returns:
        ``uint8`` of shape ``(height, width, 3)``; the input itself where it already is that.
    """
    height, width, samples = pixels.shape
    if pixels.dtype == np.uint8 and samples == 3:
        return pixels

    result = np.empty((height, width, 3), np.uint8)
    step = max(1, _BLOCK_SAMPLES // max(1, width * samples))
    for begin in range(0, height, step):  # in blocks, whose numbers in between need little memory
        rows = slice(begin, begin + step)
        block = pixels[rows]
        if block.dtype == np.uint16:
            block = _reduce_depth(block, depth)
        if samples in (2, 4):
            block = _lay_on_white(block[..., :-1], block[..., -1:], premultiplied)
        result[rows] = block  # gray is repeated
    return result


def _reduce_depth(pixels: np.ndarray, depth: int) -> np.ndarray:
    """16-bit samples, of which ``depth`` bits hold data, as 8 bits, rounded to the nearest."""
    largest = 2**depth - 1
    return ((pixels.astype(np.uint32) * 510 + largest) // (2 * largest)).astype(np.uint8)


def _lay_on_white(color: np.ndarray, alpha: np.ndarray, premultiplied: bool) -> np.ndarray:
    if alpha.size == 0 or alpha.min() == 255:
        return color

    light = color.astype(np.uint16)
    cover = alpha.astype(np.uint16)
    white = 255 - cover
    if premultiplied:
        return np.minimum(light + white, 255).astype(np.uint8)
    return ((light * cover + 255 * white + 127) // 255).astype(np.uint8)
