# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes what an evaluation or inference predicts: a record a region, tables of regions and slides, what failed.

``predictions.jsonl`` holds the records (:mod:`monai_jsma.predictions.records`), ``predictions.csv`` a row a region,
``slides.csv`` a row a slide and, only if something failed, ``failed.csv`` what and why.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_jsma._io import write_whole
from monai_jsma.data.prediction_dataset import FailedRegion
from monai_jsma.datalists.groups import group_of
from monai_jsma.datalists.item_regions import place_of
from monai_jsma.datalists.whole_slides import Unread
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.from_engine import collect_evidence
from monai_jsma.predictions.log import RecordLog, describe_run
from monai_jsma.predictions.records import PredictionRecord, make_record
from monai_jsma.predictions.replay import replay
from monai_jsma.predictions.tables import failure_table, prediction_table, slide_table

__all__ = ["PredictionSaver"]

Key = tuple[str, tuple[int, int], tuple[int, int] | None]  # file, location, size; no size: all that there is


class PredictionSaver:
    """Writes the predictions of :class:`~monai_jsma.engines.JSMAPredictor` to a folder; a killed run is gone on with.

    Records are on disk after every batch. The final files take the place of earlier ones at the end, when all are
    there. If the run is killed before, the same run goes on: its loader leaves out :attr:`recorded`, and the metrics
    count them as if they were predicted now. In several processes the first one writes the result of all.

    Args:
        output_dir: folder of the files; it is made when needed.
        items: of the datalist, as the loader gets them. Labels and groups are taken from them; they may lack both.
        class_names: by default "class 0" and so on.
        unread: slides that gave no item, as :func:`~monai_jsma.datalists.whole_slide_items` tells them.
        model: file of the weights. Its SHA-256 is written, and that of the datalist.
        datalist: its file, if there is one.
        seed: of the run.
        settings: whatever else made the predictions, as JSON can hold it.

    Raises:
        ValueError: when an item or a class name is given twice; while running, when a label is no class.
        RuntimeError: at the end of a run, when something failed or there was nothing to predict.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        items: Sequence[Mapping[str, Any]],
        *,
        model: str | os.PathLike,
        class_names: Sequence[str] | None = None,
        unread: Sequence[Unread] = (),
        datalist: str | os.PathLike | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir, self.items, self.class_names = Path(output_dir), items, class_names
        self.unread, self.model, self.datalist = unread, model, datalist
        self.seed, self.settings = seed, settings
        self._numbers: dict[Key, int] = {}
        for number, item in enumerate(items):
            if self._numbers.setdefault(_key(item), number) != number:
                raise ValueError(f"{item['image']}: given twice; a picture or region is predicted once.")
        if len(set(class_names or ())) < len(class_names or ()):
            raise ValueError(f"each class needs a name of its own, but they are {list(class_names or ())}.")
        self._log = RecordLog(self.output_dir / "predictions.jsonl", lambda: self.run)
        self._replaying = False

    @cached_property
    def run(self) -> dict[str, Any]:
        """What makes the predictions, as it is part of each record."""
        return describe_run(self.model, self.datalist, self.seed, self.settings)

    @cached_property
    def recorded(self) -> dict[int, PredictionRecord]:
        """What a killed run has predicted, by the number of the item.

        Raises:
            ValueError: when it was a run of another model, datalist or settings.
        """
        return self._by_item(self._log.read())

    def attach(self, engine: Engine) -> None:
        """Write what ``engine`` predicts. Attach what draws a picture before: a recorded one is not drawn again."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._replay)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Write the records of the engine's last batch."""
        if not self._replaying:
            self._log.append([self._record(evidence) for evidence in collect_evidence(engine)])

    def _start(self) -> None:
        _ = self.recorded  # of all processes, before one of them appends to it
        idist.barrier()
        self._log.begin()

    def _replay(self, engine: Engine) -> None:
        self._replaying = True
        for number in sorted(self.recorded)[idist.get_rank() :: idist.get_world_size()]:
            replay(engine, self.recorded[number], self.items[number])
        self._replaying = False

    def _finish(self, engine: Engine) -> None:
        failures = [FailedRegion(u.image, 0, 0, u.reason) for u in self.unread if u.stage != "tissue"]
        failures += _of_all_processes(getattr(engine.state, "failures", []))
        if idist.get_rank() == 0:
            self._write(failures)
        idist.barrier()
        self.recorded.clear()  # another run begins anew
        count = len(self.items) + sum(u.stage != "tissue" for u in self.unread)
        if failures:
            raise RuntimeError(
                f"{len(failures)} of {count} regions failed: see {self.output_dir / 'failed.csv'}; all others were "
                f"predicted. The first: {failures[0].reason}"
            )
        if not self.items:
            raise RuntimeError(f"nothing to predict: no tissue in any slide; see {self.output_dir / 'slides.csv'}.")

    def _write(self, failures: Sequence[FailedRegion]) -> None:
        found = self._by_item(self._log.read())
        records = [found[number] for number in sorted(found)]
        no_tissue = {u.image for u in self.unread if u.stage == "tissue"}
        write_whole(self.output_dir / "predictions.csv", prediction_table(records))
        write_whole(self.output_dir / "slides.csv", slide_table(records, failures, self._labels(), no_tissue))
        if failures:
            write_whole(self.output_dir / "failed.csv", failure_table(failures))
        else:
            (self.output_dir / "failed.csv").unlink(missing_ok=True)
        self._log.finish(records)

    def _record(self, evidence: Evidence) -> PredictionRecord:
        item = self.items[self._number((evidence.file, evidence.location, evidence.stored_geometry.size))]
        label = item.get("label")
        num_classes = 0 if evidence.scores is None else len(evidence.scores)
        classes = self.class_names or [f"class {i}" for i in range(num_classes)]
        if label is not None and label not in range(len(classes)):
            raise ValueError(f"{evidence.file}: label {label!r} is none of the {len(classes)} classes {list(classes)}.")
        return make_record(evidence, classes, label=label, group=group_of(item), run=self.run)

    def _number(self, key: Key) -> int:
        """Of the item of a record."""
        number = self._numbers.get(key, self._numbers.get((*key[:2], None)))
        if number is None:
            raise ValueError(
                f"{self.output_dir}: an unfinished run of other regions, such as {key[0]} at {key[1]}; finish it as it "
                "was begun, delete predictions.jsonl.part to begin anew, or choose another 'output_dir'."
            )
        return number

    def _by_item(self, records: Iterable[PredictionRecord]) -> dict[int, PredictionRecord]:
        return {self._number(record.key): record for record in records}

    def _labels(self) -> dict[str, int | None]:
        """Of each file the label that all its items have."""
        labels: dict[str, set[int | None]] = {str(item["image"]): set() for item in self.items}
        for item in self.items:
            labels[str(item["image"])].add(item.get("label"))
        of_items = {file: known.pop() if len(known) == 1 else None for file, known in labels.items()}
        return {**of_items, **{u.image: of_items.get(u.image) for u in self.unread}}


def _key(item: Mapping[str, Any]) -> Key:
    path = os.fspath(item["image"])
    location, size = place_of(item, path)
    return path, cast(tuple[int, int], tuple(location or (0, 0))), cast(tuple[int, int], tuple(size)) if size else None


def _of_all_processes(failures: list[FailedRegion]) -> list[FailedRegion]:
    if idist.get_world_size() == 1:
        return failures
    return [failure for part in cast(list[list[FailedRegion]], idist.all_gather(failures)) for failure in part]
