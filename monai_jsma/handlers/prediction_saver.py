# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the predictions of an evaluation or inference: records, tables of regions and slides, and failures.

``predictions.jsonl`` holds the records (:mod:`monai_jsma.predictions.records`), ``predictions.csv`` one row for each
region, ``slides.csv`` one row for each slide, ``patients.csv`` one row for each group of the datalist and, only if
something failed, ``failed.csv`` what failed and why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_jsma._io import Fault, write_whole
from monai_jsma.datalists.schema import find_location_and_size
from monai_jsma.datalists.splits import group_of
from monai_jsma.networks import read_class_names
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.from_engine import collect_evidence
from monai_jsma.predictions.log import RecordLog, describe_run
from monai_jsma.predictions.records import PredictionRecord, make_record
from monai_jsma.predictions.tables import failure_table, patient_table, prediction_table, slide_table
from monai_jsma.tasks import Label

__all__ = ["PredictionSaver"]

Key = tuple[str, tuple[int, int], tuple[int, int] | None]  # file, location, size; no size: the whole image


class PredictionSaver:
    """Writes the predictions of :class:`~monai_jsma.engines.JSMAPredictor` to a folder; a killed run can be resumed.

    Records are on disk after every batch. The final files replace earlier ones at the end, when all are complete. If
    the run is killed before, the same run continues: its data set gets :attr:`recorded`, so that what was predicted is
    not predicted again and yet counts in the metrics. With several processes the first one writes the result of all.

    Args:
        output_dir: folder of the files; it is made if needed.
        items: items of the datalist, as the loader gets them. Labels and groups are taken from them, if they have any.
        class_names: names of the classes, which must be those of the network's weights; by default these, and
            "class 0" and so on if there are none.
        slides: items of the datalist, or paths, before its slides became regions: they tell the groups of slides
            without regions.
        unread: slides that gave no item, as :func:`~monai_jsma.datalists.whole_slide_items` lists them.
        model: path of the weights, whose SHA-256 is written.
        datalist: path of the datalist, whose SHA-256 is written, if there is one.
        seed: random seed of the run.
        settings: all other settings of the prediction, as JSON can hold them.
        pictures: what draws the records when all are written, such as
            :class:`~monai_jsma.handlers.PredictionPictures`; with several processes the first one calls it.

    Raises:
        ValueError: if an item or a class name is repeated; while running, if a label is not a class.
        RuntimeError: at the end of a run, if something failed or there was nothing to predict.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        items: Sequence[Mapping[str, Any]],
        *,
        model: str | os.PathLike,
        class_names: Sequence[str] | None = None,
        slides: Sequence[Mapping[str, Any] | str] = (),
        unread: Sequence[Fault] = (),
        datalist: str | os.PathLike | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        pictures: Callable[[Sequence[PredictionRecord]], Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.items = items
        self.class_names = class_names
        self.slides = slides
        self.unread = unread
        self.model = model
        self.datalist = datalist
        self.seed = seed
        self.settings = settings
        self.pictures = pictures
        self._unreadable = [fault for fault in unread if fault.stage != "tissue"]
        self._numbers = _number_items(items)
        names = class_names or ()
        if len(set(names)) < len(names):
            raise ValueError(f"each class needs a name of its own, but they are {list(names)}.")
        self._log = RecordLog(self.output_dir / "predictions.jsonl", lambda: self.run)

    @cached_property
    def run(self) -> dict[str, Any]:
        """Description of what makes the predictions, which is part of each record."""
        return describe_run(
            self.model,
            datalist=self.datalist,
            seed=self.seed,
            settings=self.settings,
        )

    @cached_property
    def recorded(self) -> dict[int, Evidence]:
        """Evidence of what a killed run has predicted, by the number of the item: for the data set.

        Raises:
            ValueError: if that was a run of another model, datalist or settings.
        """
        recorded = {}
        for record in self._log.read():
            number = self._find_item(record.key)
            recorded[number] = record.evidence
        return recorded

    def attach(self, engine: Engine) -> None:
        """Write the predictions of ``engine``. Attach what draws an image first: a recorded one is not drawn again."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Write the records of the engine's last batch."""
        records = []
        names = read_class_names(getattr(engine, "network", None), self.class_names)
        for evidence in collect_evidence(engine):
            if evidence.pyramid is not None:  # else it is of a record
                records.append(self._make_record(evidence, names))
        self._log.append(records)

    def _start(self) -> None:
        _ = self.recorded  # of all processes, before one of them appends to it
        idist.barrier()
        self._log.begin()

    def _finish(self, engine: Engine) -> None:
        failures = self._unreadable + _gather_failures(getattr(engine.state, "failures", []))
        is_first = idist.get_rank() == 0
        records = self._write_files(failures) if is_first else []
        idist.barrier()
        self.recorded.clear()  # another run starts from the beginning
        if is_first and self.pictures is not None:  # the others need not wait
            self.pictures(records)

        if failures:
            count = len(self.items) + len(self._unreadable)
            raise RuntimeError(
                f"{len(failures)} of {count} regions failed: see {self.output_dir / 'failed.csv'}; all others were "
                f"predicted. The first: {failures[0].reason}"
            )
        if not self.items:
            raise RuntimeError(f"nothing to predict: no tissue in any slide; see {self.output_dir / 'slides.csv'}.")

    def _write_files(self, failures: Sequence[Fault]) -> list[PredictionRecord]:
        """Write tables and records; returns the records."""
        record_of = {}
        for record in self._log.read():
            number = self._find_item(record.key)
            record_of[number] = record
        records = [record_of[number] for number in sorted(record_of)]
        no_tissue = {fault.where for fault in self.unread if fault.stage == "tissue"}
        slides = slide_table(records, failures, self._labels_of_files(), no_tissue=no_tissue)
        regions = prediction_table(records)
        write_whole(self.output_dir / "predictions.csv", regions)
        write_whole(self.output_dir / "slides.csv", slides)
        write_whole(self.output_dir / "patients.csv", patient_table(records, failures, self._labels_of_groups()))
        failed = self.output_dir / "failed.csv"
        if failures:
            write_whole(failed, failure_table(failures))
        else:
            failed.unlink(missing_ok=True)
        self._log.finish(records)
        return records

    def _make_record(self, evidence: Evidence, names: Sequence[str] | None) -> PredictionRecord:
        file = evidence.file
        size = evidence.stored_geometry.size
        number = self._find_item((file, evidence.location, size))
        item = self.items[number]
        classes = list(names or _default_names(evidence))
        return make_record(
            evidence,
            classes,
            label=_read_label(item, classes, multi_label=evidence.thresholds is not None),
            group=group_of(item),
            run=self.run,
        )

    def _find_item(self, key: Key) -> int:
        """Number of the item that a file, location and size belong to."""
        file, location, _ = key
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers.get((file, location, None))
        if number is None:
            raise ValueError(
                f"{self.output_dir}: an unfinished run of other regions, such as {file} at {location}; finish it with "
                "the same settings, delete predictions.jsonl.part to start again, or choose another 'output_dir'."
            )
        return number

    def _labels_of_files(self) -> dict[str, Label | None]:
        """For each file the label that all its items have; None if they differ."""
        labels: dict[str, Label | None] = {}
        for item in self.items:
            file = str(item["image"])
            label = _freeze_label(item.get("label"))
            if labels.setdefault(file, label) != label:
                labels[file] = None
        for fault in self.unread:
            labels.setdefault(fault.where, None)
        return labels

    def _labels_of_groups(self) -> dict[str, dict[str, Label | None]]:
        """For each group of the datalist its files, with the label that all their items have; None if they differ."""
        groups: dict[str, dict[str, Label | None]] = {}
        for item in self.items:
            label = _freeze_label(item.get("label"))
            labels = groups.setdefault(group_of(item), {})
            if labels.setdefault(str(item["image"]), label) != label:
                labels[str(item["image"])] = None
        described = [slide for slide in self.slides if isinstance(slide, Mapping)]  # others are bare paths
        group_of_slide = {str(slide["image"]): group_of(slide) for slide in described}
        for fault in self.unread:
            group = group_of_slide.get(fault.where, fault.where)
            groups.setdefault(group, {}).setdefault(fault.where, None)
        return groups


def _freeze_label(label: Any) -> Any:
    """A label as records have it: a list of classes becomes a tuple."""
    return tuple(label) if isinstance(label, list) else label


def _read_label(item: Mapping[str, Any], classes: Sequence[str], *, multi_label: bool) -> Label | None:
    """The label of an item.

    Raises:
        ValueError: if it is no class, or of multi-label no list of classes.
    """
    label = _freeze_label(item.get("label"))
    if label is None:
        return None
    indices = label if isinstance(label, tuple) else (label,)
    are_classes = all(index in range(len(classes)) for index in indices)
    if isinstance(label, tuple) != multi_label or not are_classes:
        kind = "a list of some" if multi_label else "one"
        stated = f"{item['image']}: label {item['label']!r}"
        raise ValueError(f"{stated} is not {kind} of the {len(classes)} classes {classes}.")
    return label


def _default_names(evidence: Evidence) -> list[str]:
    if evidence.scores is None:
        return []
    return [f"class {index}" for index in range(len(evidence.scores))]


def _number_items(items: Iterable[Mapping[str, Any]]) -> dict[Key, int]:
    """Number of each item, by its file, location and size.

    Raises:
        ValueError: if two items are of the same region.
    """
    numbers: dict[Key, int] = {}
    for number, item in enumerate(items):
        key = _make_key(item)
        if key in numbers:
            raise ValueError(f"{item['image']}: listed twice; an image or region is predicted once.")
        numbers[key] = number
    return numbers


def _make_key(item: Mapping[str, Any]) -> Key:
    file = os.fspath(item["image"])
    location, size = find_location_and_size(item, file)
    row, col = location or (0, 0)
    if not size:
        return file, (row, col), None
    height, width = size
    return file, (row, col), (height, width)


def _gather_failures(failures: list[Fault]) -> list[Fault]:
    """The failures of all processes."""
    if idist.get_world_size() == 1:
        return failures
    parts = cast(list[list[Fault]], idist.all_gather(failures))
    return [failure for part in parts for failure in part]
