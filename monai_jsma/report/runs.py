# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Runs to report on, read and checked. A run is what one model, or the folds of one experiment, made of pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_jsma.predictions.records import PredictionRecord, read_records

__all__ = ["Run", "read_runs"]


@dataclass(frozen=True)
class Run:
    """Predictions under one name, from one or more files."""

    name: str
    paths: tuple[str, ...]
    records: tuple[PredictionRecord, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.records[0].classes


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """The runs of ``FILE`` or ``NAME=FILE``; files that are given one name are one run.

    A file without a name is called as its folder if it is a ``predictions.jsonl``, else as itself.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when files hold no or broken records, two runs share a name, or their classes differ.
    """
    files: dict[str, list[str]] = defaultdict(list)
    unnamed = set()
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or Path(argument).exists():
            path = argument
            name = Path(path).absolute().parent.name if Path(path).name == "predictions.jsonl" else Path(path).stem
            if name in files:
                raise ValueError(f"{path}: another file is called '{name}' too; name them, NAME=FILE.")
            unnamed.add(name)
        elif name in unnamed or not name:
            raise ValueError(f"{argument}: '{name}' is no name that is free; give another.")
        files[name].append(path)
    runs = [_read_run(name, paths) for name, paths in files.items()]
    for run in runs[1:]:
        if run.classes != runs[0].classes:
            raise ValueError(f"{_described(run)} but {_described(runs[0])}; compare runs over the same classes.")
    return runs


def _described(run: Run) -> str:
    return f"run '{run.name}' tells apart {', '.join(run.classes)}"


def _read_run(name: str, paths: Sequence[str]) -> Run:
    run = Run(name, tuple(paths), tuple(read_records(paths)))
    for path in paths:
        if not Path(path).stat().st_size:
            raise ValueError(f"{path}: holds no predictions.")
    for record in run.records:
        if record.classes != run.classes:
            raise ValueError(
                f"run '{name}': {record.file} has the classes {', '.join(record.classes)}, but {run.records[0].file} "
                f"{', '.join(run.classes)}."
            )
    return run
