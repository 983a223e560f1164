# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What is scored: runs read from files of records, and their cases.

A run is what one model, or the models of all folds of one experiment, predicted. A case is a region, or all regions of
a file or group as one, with the mean of their probabilities.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_jsma.predictions.measures import predictive_entropy
from monai_jsma.predictions.records import PredictionRecord, read_records
from monai_jsma.tasks import MULTILABEL, Label, make_class_matrix, name_label

__all__ = ["Cases", "Run", "join_run", "make_cases", "read_runs"]

_KEY_ATTRIBUTES = {"region": "key", "file": "file", "group": "group"}


@dataclass(frozen=True)
class Run:
    """Predictions under one name.

    Args:
        name: name of the run.
        paths: files of its records.
        records: records of all files, at least one.
    """

    name: str
    paths: tuple[str, ...]
    records: tuple[PredictionRecord, ...]

    @property
    def task(self) -> str:
        """What was asked, see :mod:`monai_jsma.tasks`."""
        return self.records[0].task

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.records[0].classes


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """Read the runs of ``FILE`` or ``NAME=FILE`` arguments; files with the same given name are one run.

    A file without a name is called like its folder if it is a ``predictions.jsonl``, else like itself.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file holds no or broken records, two runs share a name, or their classes differ.
    """
    files: dict[str, list[str]] = defaultdict(list)
    unnamed = set()
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or Path(argument).exists():
            path = argument
            name = _name_run(path)
            if name in files:
                raise ValueError(f"{path}: another file has the name '{name}' too; give names as NAME=FILE.")
            unnamed.add(name)
        elif name in unnamed or not name:
            raise ValueError(f"{argument}: the name '{name}' is empty or taken; give another.")
        files[name].append(path)

    runs = []
    for name, paths in files.items():
        runs.append(join_run(name, [(path, read_records(path)) for path in paths]))
    for run in runs[1:]:
        if run.classes != runs[0].classes:
            raise ValueError(f"{_describe(run)}, but {_describe(runs[0])}; compare runs with the same classes.")
        if (run.task == MULTILABEL) != (runs[0].task == MULTILABEL):
            raise ValueError(
                f"run '{run.name}' is of the task '{run.task}', but '{runs[0].name}' of '{runs[0].task}': they cannot "
                "be compared; report them by themselves."
            )
    return runs


def _name_run(path: str) -> str:
    file = Path(path)
    return file.absolute().parent.name if file.name == "predictions.jsonl" else file.stem


def _describe(run: Run) -> str:
    return f"run '{run.name}' has the classes {', '.join(run.classes)}"


def join_run(name: str, records_of_files: Iterable[tuple[str, Sequence[PredictionRecord]]]) -> Run:
    """Join records that were read into a run.

    Args:
        name: name of the run.
        records_of_files: each file and its records.

    Raises:
        ValueError: if a file holds no records, a region is in two files, or their classes differ.
    """
    records: dict[tuple, PredictionRecord] = {}
    paths = []
    for path, of_file in records_of_files:
        paths.append(path)
        if not of_file:
            raise ValueError(f"{path}: holds no predictions.")
        for record in of_file:
            if record.key in records:
                raise ValueError(f"{path}: {record.file} at {record.location} was predicted before.")
            records[record.key] = record

    run = Run(name, tuple(paths), tuple(records.values()))
    for record in run.records:
        if (record.task, record.thresholds) != (run.task, run.records[0].thresholds):
            raise ValueError(
                f"run '{name}': {record.file} is of the task '{record.task}' with the thresholds {record.thresholds}, "
                f"but {run.records[0].file} of '{run.task}' with {run.records[0].thresholds}."
            )
        if record.classes != run.classes:
            raise ValueError(
                f"run '{name}': {record.file} has the classes {', '.join(record.classes)}, "
                f"but {run.records[0].file} has {', '.join(run.classes)}."
            )
    return run


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The labelled cases of a run, sorted by their keys.

    Args:
        keys: what identifies each case: file, location and size of a region, or the name of a file or group.
        labels: index of the true class of each case ``(n,)``; of multi-label whether each class is present, bool
            ``(n, classes)``.
        probabilities: probability of every class ``(n, classes)``.
        groups: name of the group of each case ``(n,)``.
        records: records of each case.
        thresholds: of multi-label, the probability from which each class is predicted; None of other tasks.
    """

    keys: tuple[Hashable, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray
    records: tuple[tuple[PredictionRecord, ...], ...]
    thresholds: tuple[float, ...] | None = None

    @property
    def truths(self) -> list[Label]:
        """The label of each case, as records have it."""
        if self.thresholds is None:
            return self.labels.tolist()
        return [tuple(np.flatnonzero(row).tolist()) for row in self.labels]

    @property
    def uncertainties(self) -> dict[str, np.ndarray]:
        """Uncertainties of the cases ``(n,)`` by name.

        These are the predictive entropy and, if all regions were predicted with draws, the mean mutual information.
        """
        entropy = predictive_entropy(self.probabilities, multi_label=self.thresholds is not None)
        uncertainties = {"predictive_entropy": entropy}
        means = []
        for records in self.records:
            if not all(record.draws for record in records):
                return uncertainties
            information = np.array([record.mutual_information for record in records])
            means.append(information.mean())
        uncertainties["mutual_information"] = np.array(means)
        return uncertainties

    def select(self, keys: Collection[Hashable]) -> Cases:
        """The cases with the given keys, in the same order."""
        rows = []
        for row, key in enumerate(self.keys):
            if key in keys:
                rows.append(row)
        return Cases(
            keys=tuple(self.keys[i] for i in rows),
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            groups=self.groups[rows],
            records=tuple(self.records[i] for i in rows),
            thresholds=self.thresholds,
        )


def make_cases(records: Iterable[PredictionRecord], by: str = "region") -> Cases | None:
    """The cases of all records with a label; None if no record has one.

    Args:
        records: records of one run.
        by: what is a case: "region", "file" or "group".

    Raises:
        ValueError: if the regions of a case differ in label or group.
    """
    records_of_case: dict = defaultdict(list)
    for record in records:
        if record.label is not None:
            key = getattr(record, _KEY_ATTRIBUTES[by])
            records_of_case[key].append(record)
    if not records_of_case:
        return None

    keys = sorted(records_of_case)
    first = records_of_case[keys[0]][0]
    labels = []
    groups = []
    means = []
    for key in keys:
        members = records_of_case[key]
        _check_agreement(key, members)
        labels.append(members[0].label)
        groups.append(members[0].group)
        probabilities = [record.probabilities for record in members]
        means.append(np.mean(probabilities, axis=0))
    return Cases(
        keys=tuple(keys),
        labels=np.array(labels) if first.thresholds is None else make_class_matrix(labels, len(first.classes)),
        probabilities=np.array(means),
        groups=np.array(groups),
        records=tuple(tuple(records_of_case[key]) for key in keys),
        thresholds=first.thresholds,
    )


def _check_agreement(key: Hashable, records: Sequence[PredictionRecord]) -> None:
    """Check that the regions of a case have one label and one group."""
    labels = {record.label for record in records if record.label is not None}
    groups = sorted({record.group for record in records})
    if len(labels) > 1:
        names = sorted(name_label(label, records[0].classes) for label in labels)
        raise ValueError(f"{key}: its regions have the labels {', '.join(names)}; score them --by region.")
    if len(groups) > 1:
        raise ValueError(f"{key}: its regions have the groups {', '.join(groups)}; score them --by region.")
