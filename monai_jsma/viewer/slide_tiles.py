# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tiles of slides as JPEG, read when they are asked for, by any number of threads.

Memory is bounded: as many tiles are read at a time as there are cores, the tiles that are kept have a limit in bytes,
and of images that are decoded whole only a few are. A file that was moved, deleted or replaced meanwhile is noticed
within a second.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from monai_jsma._io import count_cores
from monai_jsma.geometry import Box
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.slides import Reader, SlideInfo, open_slide
from monai_jsma.slides.identity import slide_stamp
from monai_jsma.slides.resample import find_source_level, read_averaged
from monai_jsma.viewer.deep_zoom import TILE_SIZE, DeepZoom, TileIndex
from monai_jsma.visualize.record_figures import inspect_file

__all__ = ["OpenSlide", "SlideTiles", "find_first_level"]

_MAX_TILE_PIXELS = 4096 * 4096  # that are decoded for one tile
_MAX_DECODED = 3  # images that are held in memory whole; each may have 1.2 GB
_CHECKED_FOR = 1.0  # seconds for which a file is taken to be as it was
_QUALITY = 90  # of JPEG


@dataclass(frozen=True, kw_only=True)
class OpenSlide:
    """A slide that can be read.

    Attributes:
        info: what its header says.
        reader: reads its pixels.
        zoom: its tiles.
        first_level: the coarsest level whose tiles are served; of others, a tile would need too many pixels.
        version: a text that differs after the file has changed.
    """

    info: SlideInfo
    reader: Reader
    zoom: DeepZoom
    first_level: int
    version: str


@dataclass(eq=False)
class _Slot:
    """The place of one slide: what is known of it now."""

    path: str
    records: Sequence[PredictionRecord]
    slide: OpenSlide | None = None
    checked_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class SlideTiles:
    """Reads tiles of the slides of predictions.

    Args:
        records: the records of each file, by its path.
        base_dir: folder that relative paths start at.
        max_bytes: how many bytes of JPEG are kept in memory.
    """

    def __init__(
        self,
        records: Mapping[str, Sequence[PredictionRecord]],
        base_dir: str | os.PathLike[str] = "",
        *,
        max_bytes: int = 64_000_000,
    ) -> None:
        self._base_dir = base_dir
        self._slots = [_Slot(str(Path(base_dir) / file), of_file) for file, of_file in records.items()]
        self._kept = _ByteCache(max_bytes)
        self._reading = threading.BoundedSemaphore(max(2, count_cores()))
        self._decoding = threading.Lock()
        self._decoded: OrderedDict[int, None] = OrderedDict()  # numbers of slides, the one used last at the end

    def __len__(self) -> int:
        return len(self._slots)

    def open(self, number: int) -> OpenSlide:
        """The slide of a number, as it is on disk now.

        Raises:
            FileNotFoundError: if the file is gone.
            SlideError: if it cannot be read, or is not what was predicted.
        """
        slot = self._slots[number]
        with slot.lock:
            if not _is_current(slot):
                slot.slide = None
                slot.slide = self._inspect(slot)
                slot.checked_at = time.monotonic()
            slide = slot.slide
        assert slide is not None
        if not slide.info.lazy:
            self._forget_decoded(number)
        return slide

    def read(self, number: int, index: TileIndex) -> bytes:
        """A tile as JPEG.

        Args:
            number: number of the slide.
            index: the tile.

        Raises:
            IndexError: if there is no such tile.
            FileNotFoundError: if the file is gone.
            SlideError: if it cannot be read, or is not what was predicted.
        """
        slide = self.open(number)
        box, size = slide.zoom.tile(index)
        if index.level < slide.first_level:
            raise IndexError(f"level {index.level} is coarser than the first that is served, {slide.first_level}")
        key = (number, slide.version, index)
        content = self._kept.find(key)
        if content is None:
            content = self._encode(slide, box, size)
            self._kept.keep(key, content)
        return content

    def _encode(self, slide: OpenSlide, box: Box, size: tuple[int, int]) -> bytes:
        with self._reading:
            pixels = read_averaged(slide.reader, box, size, exact=False, path=slide.info.path)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        return buffer.getvalue()

    def _inspect(self, slot: _Slot) -> OpenSlide:
        info = inspect_file(slot.records, self._base_dir)
        if info.lazy:
            reader = open_slide(info)
        else:
            with self._decoding:
                reader = open_slide(info)
        zoom = DeepZoom(info.size)
        return OpenSlide(
            info=info,
            reader=reader,
            zoom=zoom,
            first_level=find_first_level(reader, zoom) if info.lazy else 0,
            version=hashlib.sha256(info.identity.encode("utf-8", "surrogateescape")).hexdigest()[:12],
        )

    def _forget_decoded(self, number: int) -> None:
        """Forget the images that were looked at least lately, of those that are held in memory whole."""
        with self._decoding:
            self._decoded[number] = None
            self._decoded.move_to_end(number)
            while len(self._decoded) > _MAX_DECODED:
                oldest, _ = self._decoded.popitem(last=False)
                self._slots[oldest].slide = None  # who still reads from it keeps it


def _is_current(slot: _Slot) -> bool:
    """Whether a slide is open, and its file is the one that was opened."""
    if slot.slide is None:
        return False
    now = time.monotonic()
    if now - slot.checked_at < _CHECKED_FOR:
        return True
    if not os.path.exists(slot.path) or slide_stamp(slot.path) != slot.slide.info.stamp:
        return False
    slot.checked_at = now
    return True


def find_first_level(reader: Reader, zoom: DeepZoom, *, max_pixels: int = _MAX_TILE_PIXELS) -> int:
    """The coarsest level of which a tile needs at most so many stored pixels.

    Args:
        reader: gives the sizes of the stored levels.
        zoom: the tiles of the image.
        max_pixels: the largest number of pixels that one tile may be averaged from.
    """
    height, width = zoom.size
    for level in range(zoom.max_level):
        scale = zoom.scale(level)
        source = find_source_level(reader, scale, scale, exact=False)
        rows = min(TILE_SIZE * scale, height) / source.down
        cols = min(TILE_SIZE * scale, width) / source.across
        if rows * cols <= max_pixels:
            return level
    return zoom.max_level


class _ByteCache:
    """Contents by key, of which those used last are kept, up to a number of bytes; for any number of threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._contents: OrderedDict[object, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: object) -> bytes | None:
        with self._lock:
            content = self._contents.get(key)
            if content is not None:
                self._contents.move_to_end(key)
            return content

    def keep(self, key: object, content: bytes) -> None:
        with self._lock:
            if key in self._contents:
                return
            self._contents[key] = content
            self._num_bytes += len(content)
            while self._num_bytes > self._max_bytes:
                _, oldest = self._contents.popitem(last=False)
                self._num_bytes -= len(oldest)
