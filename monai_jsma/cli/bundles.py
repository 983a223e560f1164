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

CONFIG_FOLDERS = ("configs", "../variants")  # relative to the bundle


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the bundle."""
    parser.add_argument(
        "--bundle", type=Path, default=Path("bundles/bach"), help="folder of the bundle (default: %(default)s)"
    )


def config_files(bundle: Path, *names: str) -> list[str]:
    """Find configurations by name: in the bundle itself, then in ``variants/`` beside it.

    Args:
        bundle: folder of the bundle.
        names: names of the configurations, with or without ``.json``.

    Returns:
        Their paths, relative to the bundle.

    Raises:
        FileNotFoundError: when one is in neither folder.
    """
    return [_config_file(bundle, name.removesuffix(".json")) for name in names]


def _config_file(bundle: Path, name: str) -> str:
    for folder in CONFIG_FOLDERS:
        file = f"{folder}/{name}.json"
        if (bundle / file).is_file():
            return file
    known = sorted(path.stem for folder in CONFIG_FOLDERS for path in (bundle / folder).glob("*.json"))
    raise FileNotFoundError(
        f"{bundle / 'configs' / name}.json: no such file; name the folder of the bundle with --bundle, or a "
        f"configuration that it has or that lies in variants/ beside it: {', '.join(known) or 'none'}."
    )


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
