# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What is installed: the wheel, its version and its pins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

from places import ROOT

import monai_jsma


def setup_cfg() -> ConfigParser:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def normalized(requirement: str) -> str:
    """The name of a requirement as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def test_wheel_holds_every_module(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "monai_jsma", source / "monai_jsma", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run([*build, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("monai_jsma/")}
    assert held == {str(p.relative_to(source)) for p in (source / "monai_jsma").rglob("*.*")}
    assert "monai_jsma/py.typed" in held


def test_version_is_the_same_everywhere() -> None:
    assert setup_cfg()["metadata"]["version"] == monai_jsma.__version__


def test_constraints_pin_every_requirement() -> None:
    config = setup_cfg()
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    wanted = {normalized(line) for group in groups for line in group.split("\n") if line} - {"monai-jsma"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert wanted <= {normalized(pin) for pin in pins}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)  # exact, and without a local label
