# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trainings of a bundle and their tests, many of them: what is finished is not done again, what was stopped goes on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_jsma.cli.bundles import bundle_command, config_files, read_config, shown

__all__ = ["SHUFFLED", "TrainingRun", "Variant", "finish_all", "make_variants", "read_seeds"]

SHUFFLED = "shuffled_labels"  # the variant that must learn nothing


@dataclass(frozen=True)
class Variant:
    """One way to train a bundle.

    Args:
        name: what reports call it.
        configs: names of the overlays on ``train.json``.
        values: in place of the configurations' own.
        shuffled: train on labels that are dealt anew, see :func:`~monai_jsma.datalists.shuffle_labels`.
    """

    name: str
    configs: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    shuffled: bool = False


def make_variants(
    bundle: Path, names: Sequence[str], configs: Sequence[str], values: Mapping[str, Any]
) -> list[Variant]:
    """The variants that are called so.

    Args:
        bundle: its folder.
        names: ``"multi"`` (as the bundle is), ``"single"`` (a variant for each single magnification),
            ``"shuffled_labels"`` (as the bundle is, of labels that are dealt anew), or of an overlay.
        configs: overlays of all variants.
        values: of all variants, in place of the configurations' own.
    """
    made: dict[str, Variant] = {}
    for name in names:
        if name == "single":
            for level, mpp in _magnifications(bundle, configs, values).items():
                made[level] = Variant(level, tuple(configs), {**values, "magnifications": f"[{mpp}]"})
        else:
            overlays = () if name in ("multi", SHUFFLED) else (name,)
            made[name] = Variant(name, (*configs, *overlays), dict(values), name == SHUFFLED)
    return list(made.values())


def read_seeds(text: str) -> list[int]:
    """The different seeds of ``--seeds``, ascending.

    Raises:
        ValueError: when the text is no list of whole numbers.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"--seeds '{text}': whole numbers separated by commas were expected, such as 0,1,2.")
    return sorted({int(part) for part in text.split(",")})


def _magnifications(bundle: Path, configs: Sequence[str], values: Mapping[str, Any]) -> dict[str, float]:
    """um per pixel by name, as the configurations and values say, coarse to fine."""
    from monai_jsma.geometry import PatchGeometry

    found = read_config(bundle, configs, values).get_parsed_content("magnifications")
    geometry = PatchGeometry((1, 1), 1.0, found, 1)
    return {name: m.mpp for name, m in zip(geometry.names, geometry.magnifications, strict=True)}  # type: ignore[union-attr]


@dataclass(frozen=True)
class TrainingRun:
    """One training and its test.

    Args:
        bundle: its folder.
        folder: of what the run makes.
        configs: names of the overlays on ``train.json``.
        values: of the training, in place of the configurations' own.
        test_list: of the datalist.
        training: what the training alone has in place of the values.
    """

    bundle: Path
    folder: Path
    configs: tuple[str, ...]
    values: Mapping[str, Any]
    test_list: str = "test"
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def predictions(self) -> Path:
        """The records of the test."""
        return self.folder / "eval" / "predictions.jsonl"

    def finish(self) -> None:
        """Train and test, or what is left to do of it.

        Raises:
            ValueError: when a command fails: which, and where its output is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files = config_files(self.bundle, "train", *self.configs)
        places = {"ckpt_dir": "models", "output_dir": "eval", "log_dir": "runs"}
        values = {**{name: self.folder / place for name, place in places.items()}, **self.values}
        trained = self.folder / "trained"
        if not trained.exists():
            resume = {"resume": True} if (self.folder / "models" / "checkpoint.pt").exists() else {}
            self._call("training", files, {**values, **self.training, **resume})
            trained.touch()
        if not self.predictions.exists() or (self.folder / "eval" / "failed.csv").exists():
            files += config_files(self.bundle, "evaluate")
            self._call("evaluating", files, {**values, "validation_list": self.test_list})

    def _call(self, run_id: str, files: Sequence[str], values: Mapping[str, Any]) -> None:
        command = bundle_command(run_id, files, values)
        log = self.folder / f"{run_id}.log"
        with log.open("a", encoding="utf-8") as file:
            print(f"$ {shown(command)}", file=file, flush=True)
            done = subprocess.run(command, cwd=self.bundle, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            raise ValueError(f"{run_id} ended with exit code {done.returncode}: {last} (all of it in {log})")


def finish_all(runs: Sequence[TrainingRun], jobs: int) -> Iterator[tuple[TrainingRun, ValueError | None]]:
    """Finish runs, ``jobs`` at a time; gives each when it is done, with its error if it failed."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run.finish): run for run in runs}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, ValueError):
                raise error
            yield futures[future], error
