# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Records on disk while a run is going on, so that a killed run can be resumed where it stopped.

Each process appends to a file of its own beside the final one: ``predictions.jsonl.part``, and from the second process
on ``predictions.jsonl.part1`` and so on. A line counts when its end is written.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import monai
import torch

from monai_jsma._io import checkpoint_file, file_sha256, name_full_disk, replace_file
from monai_jsma._version import __version__
from monai_jsma.predictions.records import PART, PredictionRecord

__all__ = ["RecordLog", "describe_run"]


class RecordLog:
    """The records of one run, all of whose processes see the same folder.

    Args:
        path: path of the final file.
        describe: function that describes the run (:func:`describe_run`); it is called only if there are records of
            before, which must be of the same run.
    """

    def __init__(self, path: str | Path, describe: Callable[[], Mapping[str, Any]]) -> None:
        self.path = Path(path)
        self.describe = describe

    def read(self) -> list[PredictionRecord]:
        """Read what all processes have written so far.

        Raises:
            ValueError: if a part is of another run, or a line of it is not a record.
        """
        parts = self._find_parts()
        if not parts:
            return []
        run = self.describe()
        records = []
        for part in parts:
            for number, line in enumerate(_read_whole_lines(part).splitlines(), start=1):
                try:
                    record = PredictionRecord.from_json(line.decode())
                except ValueError as error:
                    raise ValueError(f"{part}, line {number}: {error}. Delete the file to start again.") from error
                _check_run(part, record.run, run)
                records.append(record)
        return records

    def begin(self) -> None:
        """Prepare to append; a line that was being written when the last run was killed is dropped."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part.touch()
        os.truncate(self._part, len(_read_whole_lines(self._part)))

    def append(self, records: Iterable[PredictionRecord]) -> None:
        """Write records to disk, where they survive the process.

        Raises:
            OSError: if they cannot be written; it names the file.
        """
        with name_full_disk(self._part), open(self._part, "ab") as file:
            for record in records:
                file.write(_encode_line(record))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, records: Iterable[PredictionRecord]) -> None:
        """Replace an earlier result by all records, and delete the parts; for one process, at the end."""
        with replace_file(self.path) as unfinished, open(unfinished, "wb") as file:
            for record in records:
                file.write(_encode_line(record))
        for part in self._find_parts():
            part.unlink()

    @property
    def _part(self) -> Path:
        """The file of this process."""
        return self.path.with_name(f"{self.path.name}{PART}{idist.get_rank() or ''}")

    def _find_parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}{PART}*"))


def describe_run(
    model: str | os.PathLike,
    *,
    datalist: str | os.PathLike | None,
    seed: int | None,
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Describe what makes predictions, as JSON holds it.

    Args:
        model: path of the weights.
        datalist: path of the datalist; without such a file there is no checksum of it.
        seed: random seed of the run.
        settings: all other settings of the prediction.

    Raises:
        FileNotFoundError: if there are no weights.
    """
    has_datalist = datalist is not None and os.path.isfile(datalist)
    run = {
        "model": file_sha256(checkpoint_file(os.fspath(model))),
        "datalist": file_sha256(os.fspath(datalist)) if has_datalist else None,  # type: ignore[arg-type]
        "seed": seed,
        "settings": settings or {},
        "versions": {
            "monai_jsma": __version__,
            "monai": str(monai.__version__),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    return cast(dict[str, Any], json.loads(json.dumps(run)))  # as it is read again: tuples become lists


def _check_run(part: Path, recorded: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise ValueError if a record is not of this run."""
    differing = [key for key in {**run, **recorded} if recorded.get(key) != run.get(key)]
    if differing:
        raise ValueError(
            f"{part}: an unfinished run with another {', '.join(differing)}; finish it with the same settings, delete "
            "the file to start again, or choose another 'output_dir'."
        )


def _encode_line(record: PredictionRecord) -> bytes:
    return f"{record.to_json()}\n".encode()


def _read_whole_lines(part: Path) -> bytes:
    content = part.read_bytes()
    end = content.rfind(b"\n") + 1
    return content[:end]
