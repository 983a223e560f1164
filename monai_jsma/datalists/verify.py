# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every fault of a datalist and of its files, where :func:`~monai_jsma.datalists.load_datalist` stops at the first.

Each item goes through the stages of :data:`STAGES`; a fault in one does not keep the others from being looked at,
unless they need what is missing. Only a checksum sees damage that still decodes, so every file is hashed once.
Coordinates are (row, column), sizes (height, width), in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from monai_jsma._io import csv_text, file_sha256
from monai_jsma.datalists.groups import identities, on_two_sides
from monai_jsma.datalists.item_checks import few_classes, item_faults, labels_fault
from monai_jsma.datalists.item_regions import read_region, region_of
from monai_jsma.datalists.schema import SIDES, read_datalist, resolved_item, sides_of
from monai_jsma.geometry import check_fine_enough, to_mpp
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.identity import file_stamp
from monai_jsma.slides.open import inspect_slide
from monai_jsma.slides.spacing import resolve_mpp

__all__ = ["STAGES", "Fault", "fault_table", "verify_datalist"]

STAGES = ("datalist", "item", "label", "file", "sha256", "open", "mpp", "magnification", "box", "read", "split")
Found = Iterator[tuple[str, str]]  # (stage, reason)
_ERRORS = (SlideError, OSError, ValueError)


class Fault(NamedTuple):
    """What is wrong: with which item ("training[3]", or "" for the datalist), its image, the stage and the reason."""

    key: str
    image: str
    stage: str
    reason: str


@dataclass
class _Checks:
    """What the items of one datalist are checked for, and the checksums found."""

    path: Path
    base: Path
    content: Mapping[str, Any]
    mpp: float | None
    magnifications: Sequence[float | str]
    everything: bool
    checksums: dict[str, str] = field(default_factory=dict)

    def of_datalist(self) -> Found:
        if fault := labels_fault(self.content.get("labels")):
            yield "datalist", fault
        for side in SIDES:
            if side in self.content and not isinstance(self.content[side], list):
                yield "datalist", f"'{side}' must be a list of items, but is {self.content[side]!r}."
        training = self.content.get("training")
        if isinstance(training, list) and all(isinstance(item, dict) and "label" in item for item in training):
            yield from (("label", reason) for reason in few_classes(training, 2, f"{self.path}: training"))
        for _, reason in item_faults({"image": str(self.path), "mpp": self.content.get("mpp")}, None, str(self.path)):
            yield "datalist", reason

    def of_item(self, side: str, item: Any, where: str) -> Found:
        labels = self.content.get("labels")
        to_predict = side == "test" and isinstance(item, dict) and item.get("label") is None
        known = len(labels) if labels and isinstance(labels, dict) and not to_predict else None
        faults = dict(item_faults(item, known, where))
        yield from faults.items()
        if "item" in faults:
            return
        image = self.base / item["image"]
        try:
            file_stamp(str(image))
            yield from self._checksum(item, image)
        except _ERRORS as error:
            yield "file", str(error)
            return
        try:
            info = inspect_slide(image)
        except _ERRORS as error:
            yield "open", str(error)
            return
        if "mpp" not in faults:
            yield from self._spacing(item, info)
        yield from self._pixels(item, info)

    def _checksum(self, item: Mapping[str, Any], image: Path) -> Found:
        found = self.checksums.get(item["image"]) or file_sha256(image)
        self.checksums[item["image"]] = found
        stated = item.get("sha256")
        if stated is not None and str(stated).lower() != found:
            yield "sha256", f"{image}: its sha256 is {found}, but the datalist says {stated}; {COPY_AGAIN}"

    def _spacing(self, item: dict[str, Any], info: SlideInfo) -> Found:
        try:
            stated = resolved_item(item, self.content, self.base, None, self.path).get("mpp")
            mpp, source = resolve_mpp(info.path, info.spacings, stated)
            if mpp is None and self.mpp is not None:
                mpp, source = resolve_mpp(info.path, (), self.mpp)
        except ValueError as error:
            yield "mpp", str(error)
            return
        if mpp is None:
            why = f" ({source})" if source else ""
            yield "mpp", f"{info.path}: the file does not tell its spacing{why}; give 'mpp' (um/px) in the datalist."
        elif self.magnifications:
            try:
                check_fine_enough(mpp, min(map(to_mpp, self.magnifications)), path=info.path, mpp_source=source)
            except ValueError as error:
                yield "magnification", str(error)

    def _pixels(self, item: Mapping[str, Any], info: SlideInfo) -> Found:
        try:
            region = region_of(item, info)
        except ValueError as error:
            yield "box", str(error)
            region = ((0, 0), info.size)  # the file itself may still be sound
        try:
            read_region(info, region, everything=self.everything)
        except _ERRORS as error:
            yield "read", str(error)


def _leaks(entries: Sequence[tuple[str, str, Any]], checksums: Mapping[str, str]) -> Iterator[Fault]:
    """Items whose group, patient, picture or bytes are on another side too."""
    found = {}
    for _, where, item in entries:
        if "item" not in dict(item_faults(item, None, where)):
            content = {("file of equal bytes", checksums[item["image"]])} if item["image"] in checksums else set()
            found[where] = identities(item) | content
    side_of = {where: side for side, where, _ in entries}
    shared = on_two_sides((side_of[where], identity) for where, known in found.items() for identity in known)
    for _, where, item in entries:
        leaks = sorted(found.get(where, set()) & set(shared))
        if leaks:
            reasons = [f"{kind} {value} lies in {' and '.join(shared[kind, value])}" for kind, value in leaks]
            yield Fault(where, item["image"], "split", "; ".join(reasons) + ".")


def verify_datalist(
    path: str | Path,
    base_dir: str | Path | None = None,
    *,
    mpp: float | None = None,
    magnifications: Sequence[float | str] = (),
    everything: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> tuple[list[Fault], int]:
    """Check every item of every side of a datalist, and its file.

    Args:
        path: the JSON file.
        base_dir: folder of relative image paths; the folder of the datalist by default.
        mpp: um per pixel where neither the datalist nor the file tells it.
        magnifications: that the files must be fine enough for, in um per pixel or names ("100X").
        everything: read all pixels of all levels, rather than one patch of each region.
        progress: goes through the items and may show how far it is.

    Returns:
        the faults, and the number of items.

    Raises:
        FileNotFoundError: when there is no such datalist.
        ValueError: when it is no JSON object or has no items, or an argument is wrong.
    """
    path = Path(path)
    content = read_datalist(path)
    entries = [(s, f"{s}[{i}]", item) for s, items in sides_of(content).items() for i, item in enumerate(items)]
    if not entries:
        raise ValueError(f"{path}: no items under any of {', '.join(SIDES)}.")
    resolve_mpp("mpp", (), mpp)  # their range and spelling are no fault of a file
    magnifications = [to_mpp(m) for m in magnifications]
    checks = _Checks(path, Path(base_dir) if base_dir else path.parent, content, mpp, magnifications, everything)
    faults = [Fault("", str(path), stage, reason) for stage, reason in checks.of_datalist()]
    for side, where, item in progress(entries):
        image = str(item.get("image", "")) if isinstance(item, dict) else ""
        found = checks.of_item(side, item, f"{path}: {where}")
        faults += [Fault(where, image, stage, reason) for stage, reason in found]
    return [*faults, *_leaks(entries, checks.checksums)], len(entries)


def fault_table(faults: Iterable[Fault]) -> str:
    """The faults as CSV with a header; without a fault the header alone."""
    return csv_text(Fault._fields, ([" ".join(str(value).split()) for value in fault] for fault in faults))
