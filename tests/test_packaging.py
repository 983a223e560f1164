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

import numpy
import pytest
from bare_machine import list_extras, make_environment, use_package
from places import ROOT

import monai_jsma
from monai_jsma.cli import doctor


def setup_cfg() -> ConfigParser:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def normalized(requirement: str) -> str:
    """The name of a requirement as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what lies in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "monai_jsma", source / "monai_jsma", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


def test_wheel_holds_every_module(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("monai_jsma/")}
    package = ROOT / "monai_jsma"
    files = [path for path in package.rglob("*.*") if "__pycache__" not in path.parts]
    assert held == {str(path.relative_to(ROOT)) for path in files}
    assert "monai_jsma/py.typed" in held


def test_the_wheel_alone_serves_a_machine_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """Its ``doctor`` also says that the environment of the tests is sound; every library is in what it prints."""
    python = make_environment(tmp_path / "env", wheel, libraries=Path(numpy.__file__).parents[1])
    printed = use_package(python, tmp_path)
    assert Path(printed["where"].strip()).is_relative_to(tmp_path / "env")
    assert "torch.Size([1, 4]) torch.Size([1, 58])" in printed["example"]
    names = {line.split()[1] for line in printed["doctor"].splitlines() if line.startswith(("PASS", "WARN"))}
    assert names >= {*doctor.LIBRARIES, "python", "cores", "disk", "GPU", "cuDNN", "cucim", "read", "JPEG"}
    assert printed["doctor"].rstrip().endswith(", 0 FAIL")  # and nothing on the standard error
    assert "val_accuracy" in printed["training"]


def test_extras_of_the_wheel_are_those_of_setup_cfg(wheel: Path) -> None:
    extras = setup_cfg()["options.extras_require"]
    assert {*list_extras(wheel), "cucim", "all"} == set(extras)
    (everything,) = extras["all"].split()
    assert set(everything.removeprefix("monai-jsma[").removesuffix("]").split(",")) == {*list_extras(wheel), "cucim"}


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
