# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every fault of a datalist and of its files, where :func:`~monai_jsma.datalists.load_datalist` stops at the first.

Each item goes through the stages of :data:`STAGES`; a fault in one does not keep the others from being checked, unless
they need what is missing. Only a checksum shows damage that can still be decoded, so every file is hashed once.
Coordinates are (row, column), sizes (height, width), in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_jsma._io import Fault, format_csv
from monai_jsma.datalists.given_tissue import read_given_tissue
from monai_jsma.datalists.schema import (
    Pair,
    check_mpp,
    find_class_fault,
    find_item_faults,
    find_labels_fault,
    find_region,
    find_task,
    read_datalist,
    resolve_item,
)
from monai_jsma.datalists.spelling import read_names_as_written
from monai_jsma.datalists.splits import (
    SPLITS,
    Identity,
    find_shared,
    find_spelling_doubles,
    find_splits,
    list_identities,
)
from monai_jsma.geometry import Box, check_fine_enough, rescale_span, to_mpp
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.identity import find_slide_key, slide_sha256
from monai_jsma.slides.open import inspect_slide, known_mpp, open_slide
from monai_jsma.slides.spacing import resolve_mpp

__all__ = ["STAGES", "fault_table", "read_region", "verify_datalist"]

STAGES = ("datalist", "item", "label", "file", "sha256", "open", "mpp", "magnification", "box", "mask", "read", "split")

_ERRORS = (SlideError, OSError, ValueError)
_PATCH = 299  # height and width of what is read as a sample, in pixels
_MASK = 2000  # largest height and width at which a mask is read, in pixels
_BLOCK = 1024  # height and width of what is read at once of a whole region, in pixels

StageFaults = Iterator[tuple[str, str]]  # stage and reason


@dataclass(frozen=True)
class _Entry:
    """An item of the datalist: its split, its position in it, and what stands there, which may be anything."""

    split: str
    index: int
    item: Any

    @property
    def position(self) -> str:
        return f"{self.split}[{self.index}]"

    @property
    def image(self) -> str:
        if not isinstance(self.item, dict):
            return ""
        image = self.item.get("image", "")
        return str(image)


def verify_datalist(
    path: str | Path,
    base_dir: str | Path | None = None,
    *,
    mpp: float | None = None,
    magnifications: Sequence[float | str] = (),
    everything: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> tuple[list[Fault], int]:
    """Check every item of every split of a datalist, and its file.

    Args:
        path: path of the JSON file.
        base_dir: folder that relative image paths start at; by default the folder of the datalist.
        mpp: um per pixel where neither the datalist nor the file states it.
        magnifications: magnifications that the files must be fine enough for, in um per pixel or names ("100X").
        everything: whether to read all pixels of all levels, rather than one patch of each region.
        progress: wrapper of the sequence of items that may show how far the check is.

    Returns:
        the faults, each with its image, stage, reason and the item's position; and the number of items.

    Raises:
        FileNotFoundError: if there is no such datalist.
        ValueError: if it is no JSON object or has no items, or an argument is wrong.
    """
    path = Path(path)
    content = read_datalist(path)
    entries = []
    for split, items in find_splits(content).items():
        entries += [_Entry(split, i, item) for i, item in enumerate(items)]
    if not entries:
        raise ValueError(f"{path}: no items under any of {', '.join(SPLITS)}.")

    default, _ = resolve_mpp("mpp", (), mpp)  # a value out of range is the caller's fault, not a file's
    verifier = _Verifier(
        path=path,
        base=Path(base_dir) if base_dir else path.parent,
        content=content,
        mpp=default,
        finest=min((to_mpp(m) for m in magnifications), default=None),
        everything=everything,
    )
    faults = [Fault(str(path), stage, reason) for stage, reason in verifier.check_datalist()]
    for entry in progress(entries):
        for stage, reason in verifier.check_item(entry):
            faults.append(Fault(entry.image, stage, reason, item=entry.position))
    faults += _find_leaks(entries, verifier)
    return faults, len(entries)


def fault_table(faults: Iterable[Fault]) -> str:
    """The faults as CSV with a header; without a fault the header alone."""
    rows = []
    for fault in faults:
        image = " ".join(fault.where.split())  # in one line
        rows.append((fault.item, image, fault.stage, fault.line))
    return format_csv(("key", "image", "stage", "reason"), rows)


@dataclass(kw_only=True)
class _Verifier:
    """Checks a datalist and its items, stage by stage.

    Args:
        path: file of the datalist.
        base: folder that relative image paths start at.
        content: the datalist.
        mpp: um per pixel where none is stated.
        finest: um per pixel that the files must be fine enough for.
        everything: whether to read all pixels.
        checksums: the SHA-256 of each image that was hashed.
        keys: what copies of a slide have in common, of each image that was hashed; "" where nothing is known.
    """

    path: Path
    base: Path
    content: Mapping[str, Any]
    mpp: float | None
    finest: float | None
    everything: bool
    checksums: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    _task: str | None = field(default=None, init=False)

    def check_datalist(self) -> StageFaults:
        """Check what is common to all items."""
        labels_fault = find_labels_fault(self.content.get("labels"))
        if labels_fault:
            yield "datalist", labels_fault
        for split in SPLITS:
            items = self.content.get(split, [])
            if not isinstance(items, list):
                yield "datalist", f"'{split}' must be a list of items, but is {items!r}."

        try:
            read_names_as_written(self.content)
        except ValueError as error:
            yield "datalist", str(error)

        try:
            self._task = find_task(self.content)
        except ValueError as error:
            yield "datalist", str(error)

        class_fault = self._find_training_fault()
        if class_fault:
            yield "label", class_fault

        mpp = self.content.get("mpp")
        if mpp is None:
            return
        try:
            check_mpp(mpp, str(self.path))
        except ValueError as error:
            yield "datalist", str(error)

    def _find_training_fault(self) -> str | None:
        """Whether all items of the training split are labeled, and with the same label."""
        training = self.content.get("training")
        if not isinstance(training, list):
            return None
        for item in training:
            if not isinstance(item, dict) or "label" not in item:
                return None
        return find_class_fault(training, 2, f"{self.path}: training")

    def check_item(self, entry: _Entry) -> StageFaults:
        """Check an item, its file, its spacing and its pixels."""
        where = f"{self.path}: {entry.position}"
        faults = find_item_faults(entry.item, self._num_classes(entry), where, task=self._task)
        yield from faults.items()
        if "item" in faults:
            return

        image = self.base / entry.image
        try:
            yield from self._check_checksum(entry.item, image)
        except _ERRORS as error:
            yield "file", str(error)
            return
        try:
            info = inspect_slide(image, strict=self.everything)
        except _ERRORS as error:
            yield "open", str(error)
            return

        if "mpp" not in faults:
            yield from self._check_spacing(entry.item, info)
        if "mask" not in faults and entry.item.get("mask"):
            yield from self._check_mask(entry.item, info)
        yield from self._check_pixels(entry.item, info, has_box="box" not in faults)

    def _num_classes(self, entry: _Entry) -> int | None:
        """The number of classes that a label must be below; None where the item needs no label."""
        labels = self.content.get("labels")
        if not isinstance(labels, dict) or not labels:
            return None
        if entry.split == "test" and isinstance(entry.item, dict) and entry.item.get("label") is None:
            return None  # to be predicted
        return len(labels)

    def _check_checksum(self, item: Mapping[str, Any], image: Path) -> StageFaults:
        name = item["image"]
        if name not in self.checksums:
            self.checksums[name] = slide_sha256(image)
            self.keys[name] = find_slide_key(str(image))
        checksum = self.checksums[name]

        stated = item.get("sha256")
        if stated is None:
            return
        if str(stated).lower() != checksum:
            yield "sha256", f"{image}: its sha256 is {checksum}, but the datalist says {stated}; {COPY_AGAIN}"

    def _check_mask(self, item: Mapping[str, Any], info: SlideInfo) -> StageFaults:
        """Check that the mask can be read, fits the slide and marks some tissue."""
        window = Box(0, 0, *info.size)
        height, width = info.size
        shape = (min(height, _MASK), min(width, _MASK))
        frame = item.get("mask_frame")
        try:
            read_given_tissue(self.base / item["mask"], window, shape, size=info.size, bounds=info.bounds, frame=frame)
        except _ERRORS as error:
            yield "mask", str(error)

    def _check_spacing(self, item: dict[str, Any], info: SlideInfo) -> StageFaults:
        try:
            resolved = resolve_item(item, self.content, base=self.base, mpp=None, path=self.path)
            known, known_source = resolve_mpp(info.path, info.spacings, resolved.get("mpp"))
            mpp, source = known_mpp(replace(info, mpp=known, mpp_source=known_source), self.mpp)
        except ValueError as error:
            yield "mpp", str(error)
            return
        if self.finest is None:
            return
        try:
            check_fine_enough(mpp, self.finest, path=info.path, mpp_source=source)
        except ValueError as error:
            yield "magnification", str(error)

    def _check_pixels(self, item: Mapping[str, Any], info: SlideInfo, *, has_box: bool) -> StageFaults:
        """Check that the region lies in the image and can be read; without a region, all of the image."""
        location: Pair = (0, 0)
        size: Pair = info.size
        if has_box:
            try:
                location, size = find_region(item, info)
            except ValueError as error:
                yield "box", str(error)  # and the whole image is read: the file itself may still be sound
        try:
            read_region(info, location, size, everything=self.everything)
        except _ERRORS as error:
            yield "read", str(error)


def _find_leaks(entries: Sequence[_Entry], verifier: _Verifier) -> Iterator[Fault]:
    """Find items whose group, patient, image, slide or bytes are in another split too."""
    identities_of = {}
    pairs = []
    for entry in entries:
        faults = find_item_faults(entry.item, None, entry.position)
        if "item" in faults:
            continue
        identities = list_identities(entry.item)
        if entry.image in verifier.checksums:
            identities.add(("file of equal bytes", verifier.checksums[entry.image]))
        if verifier.keys.get(entry.image):
            identities.add(("slide", verifier.keys[entry.image]))
        identities_of[entry.position] = identities
        pairs += [(entry.split, identity) for identity in identities]

    shared = find_shared(pairs)
    double_of = _find_doubles(entries, verifier)
    for entry in entries:
        reasons = []
        identities = identities_of.get(entry.position, set())
        for identity in sorted(identities):
            if identity in double_of:
                reasons.append(f"likely one name in several spellings: {double_of[identity]}")
            if identity in shared:
                kind, value = identity
                splits = " and ".join(shared[identity])
                reasons.append(f"{kind} {value} lies in {splits}")
        if reasons:
            reason = "; ".join(reasons)
            yield Fault(entry.image, "split", f"{reason}.", item=entry.position)


def _find_doubles(entries: Sequence[_Entry], verifier: _Verifier) -> dict[Identity, str]:
    """The names that are likely the same in several spellings, each with all of them."""
    try:
        if read_names_as_written(verifier.content):
            return {}
    except ValueError:
        pass  # a fault of the datalist

    items = []
    for entry in entries:
        if "item" not in find_item_faults(entry.item, None, entry.position):
            checksum = verifier.checksums.get(entry.image)
            items.append({**entry.item, "sha256": checksum})
    double_of = {}
    for double in find_spelling_doubles(items, base=verifier.base):
        for spelling in double.spellings:
            double_of[double.kind, spelling] = str(double)
    return double_of


# --------------------------------------------------------------------------------------------------------------- pixels


def read_region(info: SlideInfo, location: Pair, size: Pair, *, everything: bool = False) -> None:
    """Read one patch in the middle of a region at level 0, or all of the region at every level.

    Args:
        info: the slide.
        location: row and column of the region's top-left corner, in level-0 pixels.
        size: height and width of the region, in level-0 pixels.
        everything: whether to read all of the region.

    Raises:
        SlideError: if something cannot be read; it says how much, and names the first.
    """
    if everything:
        windows = list(_list_blocks(info, location, size))
    else:
        height = min(_PATCH, size[0])
        width = min(_PATCH, size[1])
        row = location[0] + (size[0] - height) // 2
        col = location[1] + (size[1] - width) // 2
        windows = [(0, row, col, height, width)]

    errors = []
    reader = open_slide(info)
    for level, row, col, height, width in windows:
        try:
            reader.read(level, (row, col), (height, width))
        except SlideError as error:
            errors.append(str(error))
    if len(errors) == 1:
        raise SlideError(errors[0])
    if errors:
        raise SlideError(
            f"{errors[0]} ({len(errors)} of {len(windows)} windows of up to {_BLOCK} pixels cannot be read)"
        )


def _list_blocks(info: SlideInfo, location: Pair, size: Pair) -> Iterator[tuple[int, int, int, int, int]]:
    """Level, row, column, height and width of the blocks that cover a region at every level."""
    row, col = location
    height, width = size
    full_height, full_width = info.size
    for level, (level_height, level_width) in enumerate(info.level_sizes):
        rows = _list_spans(row, height, full=full_height, length=level_height)
        cols = _list_spans(col, width, full=full_width, length=level_width)
        for top, bottom in rows:
            for left, right in cols:
                yield level, top, left, bottom - top, right - left


def _list_spans(start: int, size: int, *, full: int, length: int) -> list[tuple[int, int]]:
    """First and end pixel of the blocks along one axis of a level.

    The blocks lie on a lattice of the level, so that each of its tiles is read once.

    Args:
        start: first level-0 pixel of the region.
        size: number of level-0 pixels of the region.
        full: length of the axis in level-0 pixels.
        length: length of the axis in pixels of the level.
    """
    level_start, level_end = rescale_span(start, start + size, length=full, new_length=length)
    spans = []
    first_block = level_start // _BLOCK * _BLOCK
    for block in range(first_block, level_end, _BLOCK):
        block_start = max(block, level_start)
        block_end = min(block + _BLOCK, level_end)
        spans.append((block_start, block_end))
    return spans
