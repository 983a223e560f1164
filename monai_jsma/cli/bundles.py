# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Running a bundle as its user would: its configurations and command lines, and trainings with their tests.

A finished training is not repeated, an interrupted one is resumed.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma.cli.ready_pythons import ReadyPythons
from monai_jsma.failures import find_cause_in_log

if TYPE_CHECKING:
    from monai.bundle import ConfigParser
    from torch import nn

__all__ = [
    "TrainingRun",
    "add_bundle_option",
    "add_overlay_option",
    "add_value_option",
    "build_command",
    "find_configs",
    "finish_runs",
    "format_command",
    "load_weights",
    "parse_seeds",
    "parse_values",
    "read_config",
]

CONFIG_FOLDERS = ("configs", "../variants")  # relative to the bundle


def add_bundle_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the bundle."""
    parser.add_argument(
        "--bundle",
        type=Path,
        default=Path("bundles/bach"),
        metavar="DIR",
        help="folder of the bundle (default: %(default)s)",
    )


def add_overlay_option(parser: argparse.ArgumentParser, *, text: str) -> None:
    """Add the option ``--config``: names of overlays.

    Args:
        parser: parser of the command.
        text: what these overlays are for.
    """
    parser.add_argument("--config", nargs="+", default=[], metavar="NAME", help=text)


def add_value_option(parser: argparse.ArgumentParser, *, note: str) -> None:
    """Add the option ``--set``, which becomes ``values``; :func:`parse_values` reads it.

    Args:
        parser: parser of the command.
        note: which values these are.
    """
    text = f"values that replace those of the configuration, {note}"
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="values", help=text)


def find_configs(bundle: Path, *names: str) -> list[str]:
    """Find configurations by name: in the bundle itself, then in ``variants/`` beside it.

    Args:
        bundle: folder of the bundle.
        names: names of the configurations, with or without ``.json``.

    Returns:
        Their paths, relative to the bundle.

    Raises:
        FileNotFoundError: if one is in neither folder.
    """
    files = []
    for name in names:
        files.append(_find_config(bundle, name.removesuffix(".json")))
    return files


def _find_config(bundle: Path, name: str) -> str:
    for folder in CONFIG_FOLDERS:
        file = f"{folder}/{name}.json"
        if (bundle / file).is_file():
            return file

    known: list[str] = []
    for folder in CONFIG_FOLDERS:
        known += [path.stem for path in (bundle / folder).glob("*.json")]
    raise FileNotFoundError(
        f"{bundle / 'configs' / name}.json: no such file; name the folder of the bundle with --bundle, or a "
        f"configuration that it has or that lies in variants/ beside it: {', '.join(sorted(known)) or 'none'}."
    )


def read_config(
    bundle: Path,
    names: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    base: str = "train",
) -> ConfigParser:
    """Read a configuration of a bundle with overlays and values, as MONAI's command line does, and check the values.

    Args:
        bundle: folder of the bundle.
        names: names of the overlays.
        values: values that replace those of the configurations.
        base: name of the configuration that the overlays lie on.

    Raises:
        FileNotFoundError: if a configuration is missing.
        ValueError: if a value has an unknown name or a wrong type, see :mod:`monai_jsma.overrides`.
    """
    from fire.parser import DefaultParseValue  # MONAI parses the values of its command line with it
    from monai.bundle import ConfigParser

    from monai_jsma.overrides import correct_settings

    files = find_configs(bundle, base, *names)
    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in files])
    for name, value in (values or {}).items():
        parser.update({name: DefaultParseValue(str(value))})
    correct_settings(parser, bundle / find_configs(bundle, base)[0])
    return parser


def load_weights(network: nn.Module, model: Path, *, bundle: Path) -> None:
    """Load the weights of a training into the network of a bundle.

    Args:
        network: the network.
        model: its weights, or a checkpoint with them as ``"model"``.
        bundle: folder of the bundle, for the message.

    Raises:
        ValueError: if they are those of another network.
    """
    import torch

    state = torch.load(model, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(state.get("model", state))
    except (RuntimeError, ValueError) as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ValueError(
            f"{model} does not fit the network of {bundle.name}; name the overlays that it was trained with by "
            f"--config. {first}"
        ) from error


def build_command(run_id: str, files: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The command line that runs a bundle, to be called in its folder.

    Args:
        run_id: name of the program to run, such as "training".
        files: paths of the configurations, relative to the bundle.
        values: values that replace those of the configurations.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", run_id]
    configs = json.dumps(list(files), separators=(",", ":"))
    command += ["--config_file", configs]
    for name, value in values.items():
        command.append(f"--{name}={value}")
    return command


def format_command(command: Sequence[str]) -> str:
    """A command line as one would type it."""
    return shlex.join(["python", *command[1:]])


def parse_seeds(text: str, *, option: str = "--seeds") -> list[int]:
    """The different seeds, or other whole numbers, of an option, ascending.

    Raises:
        ValueError: if the text is no list of whole numbers.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"{option} '{text}': whole numbers separated by commas were expected, such as 0,1,2.")
    seeds = {int(part) for part in text.split(",")}
    return sorted(seeds)


def parse_values(texts: Sequence[str]) -> dict[str, str]:
    """The values of an option ``--set``, by name.

    Raises:
        ValueError: if one is not of the form NAME=VALUE.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f"--set '{text}': NAME=VALUE was expected, such as epochs=20.")
        values[name] = "$None" if value == "None" else value  # MONAI passes over a plain None
    return values


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training of a bundle and its test.

    Args:
        bundle: folder of the bundle.
        folder: folder for models, logs and predictions.
        configs: names of the overlays on ``train.json``.
        values: values that replace those of the configurations.
        training_values: values for the training alone, which replace those as well.
        test_list: key of the test items in the datalist.
        certify: test with certified stopping too.
    """

    bundle: Path
    folder: Path
    configs: tuple[str, ...]
    values: Mapping[str, Any]
    training_values: Mapping[str, Any] = field(default_factory=dict)
    test_list: str = "test"
    certify: bool = False

    @property
    def predictions(self) -> Path:
        """Path of the prediction records of the test."""
        return self.folder / "eval" / "predictions.jsonl"

    @property
    def certified(self) -> Path:
        """Path of the prediction records of the test with certified stopping."""
        return self.folder / "certified" / "predictions.jsonl"

    @property
    def patches(self) -> Path:
        """Path of the table of the patches that the training used."""
        return self.folder / "models" / "patches.csv"

    def finish(self, pythons: ReadyPythons) -> None:
        """Train and test, or do what is left of it.

        Args:
            pythons: what runs the commands.

        Raises:
            ValueError: if a command fails; the message names the command and the file of its output.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        trained = self.folder / "trained"
        if not trained.exists():
            self._train(pythons)
            trained.touch()
        if _is_open(self.predictions):
            self._test(pythons, {})
        if self.certify and _is_open(self.certified):
            sampler = "$monai_jsma.networks.Certified()"
            self._test(pythons, {"inference_sampler": sampler, "output_dir": self.certified.parent})

    def _train(self, pythons: ReadyPythons) -> None:
        files = find_configs(self.bundle, "train", *self.configs)
        values = {**self._common_values(), **self.training_values}
        checkpoint = self.folder / "models" / "checkpoint.pt"
        if checkpoint.exists():
            values["resume"] = True
        self._run_command(pythons, build_command("training", files, values), name="training")

    def _test(self, pythons: ReadyPythons, values: Mapping[str, Any]) -> None:
        files = find_configs(self.bundle, "train", *self.configs, "evaluate")
        values = {**self._common_values(), "validation_list": self.test_list, **values}
        self._run_command(pythons, build_command("evaluating", files, values), name="evaluating")

    def _common_values(self) -> dict[str, Any]:
        folders = {
            "ckpt_dir": self.folder / "models",
            "output_dir": self.folder / "eval",
            "log_dir": self.folder / "runs",
        }
        return {**folders, **self.values}

    def _run_command(self, pythons: ReadyPythons, command: Sequence[str], *, name: str) -> None:
        log = self.folder / f"{name}.log"
        with log.open("a", encoding="utf-8") as file:
            start = file.tell()  # of this command; those of before may have failed for another reason
            file.write(f"$ {format_command(command)}\n")
        code = pythons.run(command, folder=self.bundle, log=log)
        if code:
            output = log.read_bytes()[start:].decode("utf-8", errors="replace")
            _, _, output = output.partition("\n")  # without the command itself
            cause = find_cause_in_log(output)
            raise ValueError(f"{name} ended with exit code {code}: {cause} (all of it in {log})")


def _is_open(predictions: Path) -> bool:
    """Whether a test is still to be done, as a whole or because something failed."""
    return predictions.with_name("failed.csv").exists() or not predictions.exists()


def finish_runs(runs: Sequence[TrainingRun], jobs: int) -> Iterator[tuple[TrainingRun, ValueError | None]]:
    """Finish several runs, and yield each when it is done, with its error if it failed.

    Args:
        runs: the runs.
        jobs: number of runs at the same time.
    """
    with ReadyPythons() as pythons, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run.finish, pythons): run for run in runs}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, ValueError):
                raise error
            yield futures[future], error
