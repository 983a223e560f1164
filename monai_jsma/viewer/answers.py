# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which addresses there are, and what is answered.

No part of an address becomes a part of a path: an address is one of a fixed set of names, or holds the number of a
slide and of a tile. So no address leads to another file than those that the predictions name.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

from monai_jsma.datalists.regions import Area
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.viewer.deep_zoom import TileIndex
from monai_jsma.viewer.descriptions import describe_page, describe_slide
from monai_jsma.viewer.slide_tiles import OpenSlide, SlideTiles

__all__ = ["Answer", "Refusal", "Viewer"]

_HTML = "text/html; charset=utf-8"
_CSS = "text/css; charset=utf-8"
_JAVASCRIPT = "text/javascript; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_STATIC = {  # address: file in the folder "static", and what it is
    "/": ("page.html", _HTML),
    "/viewer.css": ("viewer.css", _CSS),
    "/viewer.js": ("viewer.js", _JAVASCRIPT),
    "/overlay.js": ("overlay.js", _JAVASCRIPT),
    "/panels.js": ("panels.js", _JAVASCRIPT),
    "/openseadragon.min.js": ("openseadragon.min.js", _JAVASCRIPT),
    "/openseadragon-LICENSE.txt": ("openseadragon-LICENSE.txt", _TEXT),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_PAGE = "/predictions.json"
_SLIDE = re.compile(r"/slides/([0-9]{1,9})\.json")
_TILE = re.compile(r"/slides/([0-9]{1,9})/([0-9a-f]{12})/([0-9]{1,2})/([0-9]{1,9})_([0-9]{1,9})\.jpg")

# SlideError is a RuntimeError, and some libraries raise that.
_UNREADABLE = (RuntimeError, OSError, ValueError, MemoryError)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    Args:
        content: its bytes.
        kind: its media type.
        status: its status.
        headers: further headers.
    """

    content: bytes
    kind: str = _TEXT
    status: HTTPStatus = field(default=HTTPStatus.OK, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)


class Refusal(Exception):  # noqa: N818 - the request is wrong, not the program
    """A request that is not answered: its status, and why in one line of words."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Viewer:
    """The answers of a viewer of predictions.

    Args:
        records: the predictions.
        base_dir: folder that relative paths of slides start at.
        title: what the page calls the predictions.
        areas: annotated areas, by the file of the slide.
    """

    def __init__(
        self,
        records: Sequence[PredictionRecord],
        base_dir: str | Path = "",
        *,
        title: str = "predictions",
        areas: Mapping[str, Sequence[Area]] | None = None,
    ) -> None:
        self._records: dict[str, list[PredictionRecord]] = {}
        for record in records:
            self._records.setdefault(record.file, []).append(record)
        self._files = list(self._records)
        self._areas = areas or {}
        self._tiles = SlideTiles(self._records, base_dir)
        self._fixed = _read_static()
        self._fixed[_PAGE] = _make_json(describe_page(self._records, title=title))

    def answer(self, address: str) -> Answer:
        """What is at an address, the path of a URL as it was sent.

        Raises:
            Refusal: if there is nothing, or it cannot be read; it says so in words.
        """
        if address in self._fixed:
            return self._fixed[address]
        slide = _SLIDE.fullmatch(address)
        if slide is not None:
            return self._answer_slide(self._find_slide(slide[1]))
        tile = _TILE.fullmatch(address)
        if tile is not None:
            number = self._find_slide(tile[1])
            level, col, row = (int(digits) for digits in tile.group(3, 4, 5))
            index = TileIndex(level, row, col)
            return self._answer_tile(number, index, version=tile[2])
        raise Refusal(HTTPStatus.NOT_FOUND, "There is nothing at this address; the page is at /.")

    def _find_slide(self, digits: str) -> int:
        number = int(digits)
        if number >= len(self._files):
            raise Refusal(
                HTTPStatus.NOT_FOUND, f"There is no slide {number}; the predictions name {len(self._files)}, from 0."
            )
        return number

    def _answer_slide(self, number: int) -> Answer:
        slide = self._open(number)
        file = self._files[number]
        areas = self._areas.get(file, ())
        try:
            content = describe_slide(self._records[file], slide, areas)
        except ValueError as error:  # a record that contradicts itself
            raise _refuse(error) from error
        return _make_json({"number": number, **content})

    def _answer_tile(self, number: int, index: TileIndex, *, version: str) -> Answer:
        slide = self._open(number)
        if version != slide.version:
            raise Refusal(HTTPStatus.GONE, f"{slide.info.path}: the file has changed; load the page again.")
        try:
            return Answer(self._tiles.read(number, index), "image/jpeg")
        except IndexError as error:
            raise Refusal(HTTPStatus.NOT_FOUND, f"There is no such tile: {error}.") from error
        except _UNREADABLE as error:
            raise _refuse(error) from error

    def _open(self, number: int) -> OpenSlide:
        try:
            return self._tiles.open(number)
        except _UNREADABLE as error:
            raise _refuse(error) from error


def _read_static() -> dict[str, Answer]:
    """The files of the page, by their address."""
    folder = files("monai_jsma.viewer") / "static"
    answers = {}
    for address, (name, kind) in _STATIC.items():
        content = (folder / name).read_bytes()
        answers[address] = Answer(content, kind)
    return answers


def _refuse(error: Exception) -> Refusal:
    """Why a slide cannot be read, in words."""
    is_gone = isinstance(error, FileNotFoundError)
    status = HTTPStatus.GONE if is_gone else HTTPStatus.UNPROCESSABLE_ENTITY
    _logger.warning("%s", error)
    return Refusal(status, " ".join(str(error).split()))


def _make_json(content: Mapping[str, Any]) -> Answer:
    text = json.dumps(content, allow_nan=False)  # in ASCII: a name may hold bytes that are not UTF-8
    return Answer(text.encode(), "application/json")
