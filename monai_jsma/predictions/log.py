# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Records on disk while a run goes on, so that a killed one can go on where it stopped.

Each process appends to a file of its own beside the final one, ``predictions.jsonl.part`` and, from the second process
on, ``predictions.jsonl.part1``. A line counts when its end is written.
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

from monai_jsma._io import checkpoint_file, file_sha256
from monai_jsma._version import __version__
from monai_jsma.predictions.records import PART, PredictionRecord

__all__ = ["RecordLog", "describe_run"]


class RecordLog:
    """The records of one run, all of whose processes see the same folder.

    Args:
        path: of the final file.
        run: tells what makes the records, if there are any from before; those of another run are not gone on with.
    """

    def __init__(self, path: str | Path, run: Callable[[], Mapping[str, Any]]) -> None:
        self.path, self.run = Path(path), run

    def read(self) -> list[PredictionRecord]:
        """What all processes have written so far.

        Raises:
            ValueError: when it is of another run, or no records.
        """
        records, parts = [], self._parts()
        run = self.run() if parts else {}
        for part in parts:
            for number, line in enumerate(_whole_lines(part).splitlines(), start=1):
                try:
                    record = PredictionRecord.from_json(line.decode())
                except ValueError as error:
                    raise ValueError(f"{part}, line {number}: {error}. Delete the file to begin anew.") from error
                other = [key for key in {**run, **record.run} if record.run.get(key) != run.get(key)]
                if other:
                    raise ValueError(
                        f"{part}: an unfinished run with another {', '.join(other)}; finish it as it was begun, delete "
                        "the file to begin anew, or choose another 'output_dir'."
                    )
                records.append(record)
        return records

    def begin(self) -> None:
        """Make ready to append; a line that was being written when the last run was killed is dropped."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part.touch()
        os.truncate(self._part, len(_whole_lines(self._part)))

    def append(self, records: Iterable[PredictionRecord]) -> None:
        """Write records; they survive whatever happens next."""
        with open(self._part, "ab") as file:
            file.write("".join(f"{record.to_json()}\n" for record in records).encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, records: Iterable[PredictionRecord]) -> None:
        """Put all records in the place of an earlier result, and forget the parts; for one process, at the end."""
        whole = self.path.with_name(self.path.name + ".new")
        with open(whole, "wb") as file:
            file.writelines(f"{record.to_json()}\n".encode() for record in records)
            file.flush()
            os.fsync(file.fileno())
        os.replace(whole, self.path)
        for part in self._parts():
            part.unlink()

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self.path.name}{PART}{idist.get_rank() or ''}")

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}{PART}*"))


def describe_run(
    model: str | os.PathLike,
    datalist: str | os.PathLike | None,
    seed: int | None,
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What makes predictions, as JSON holds it.

    Args:
        model: file of the weights.
        datalist: its file; where there is none, no checksum of it is given.
        seed: of the run.
        settings: whatever else made them.

    Raises:
        FileNotFoundError: when there are no weights.
    """
    listed = datalist is not None and os.path.isfile(datalist)
    run = {
        "model": file_sha256(checkpoint_file(os.fspath(model))),
        "datalist": file_sha256(os.fspath(datalist)) if listed else None,  # type: ignore[arg-type]
        "seed": seed,
        "settings": settings or {},
        "versions": {
            "monai_jsma": __version__,
            "monai": str(monai.__version__),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    return cast(dict[str, Any], json.loads(json.dumps(run)))


def _whole_lines(part: Path) -> bytes:
    content = part.read_bytes()
    return content[: content.rfind(b"\n") + 1]
