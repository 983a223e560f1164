# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Commands that run a bundle as its user would: the command lines, and where the bundle's configurations lie."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

__all__ = ["add_bundle", "bundle_command", "config_files", "read_config", "shown"]


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the bundle."""
    parser.add_argument(
        "--bundle", type=Path, default=Path("bundles/bach"), help="folder of the bundle (default: %(default)s)"
    )


def config_files(bundle: Path, *names: str) -> list[str]:
    """Paths of configurations, relative to their bundle.

    Raises:
        FileNotFoundError: when one is missing.
    """
    files = [f"configs/{name.removesuffix('.json')}.json" for name in names]
    for file in files:
        if not (bundle / file).is_file():
            known = ", ".join(sorted(path.stem for path in (bundle / "configs").glob("*.json"))) or "none"
            raise FileNotFoundError(
                f"{bundle / file}: no such file; name the folder of the bundle with --bundle, or one of its files: "
                f"the bundle has {known}."
            )
    return files


def read_config(bundle: Path, names: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> ConfigParser:
    """``train.json`` of a bundle with overlays, and with values in place of its own as its command line takes them.

    Raises:
        FileNotFoundError: when a file is missing.
    """
    from fire.parser import DefaultParseValue  # with it MONAI reads the command line
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in config_files(bundle, "train", *names)])
    parser.update({name: DefaultParseValue(str(value)) for name, value in (values or {}).items()})
    return parser


def bundle_command(run_id: str, files: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The command line that runs a bundle, in its folder, with these values in place of the configurations' own."""
    options = [f"--{name}={value}" for name, value in values.items()]
    configs = json.dumps(list(files), separators=(",", ":"))
    return [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", configs, *options]


def shown(command: Sequence[str]) -> str:
    """A command line of :func:`bundle_command` as one would type it."""
    return shlex.join(["python", *command[1:]])
