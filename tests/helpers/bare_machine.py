# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What someone has who installed the wheel alone: no repository, a fresh environment, the README's example, a bundle.

The whole check, which downloads gigabytes and installs every extra: ``make bare PYTHON=python3.12``, or
``python tests/helpers/bare_machine.py WHEEL``. The test suite runs the same with the libraries that are here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

__all__ = ["list_extras", "make_environment", "use_package"]

ROOT = Path(__file__).parents[2]
CUCIM = "cucim-cu13"  # without its dependencies: gigabytes of CUDA libraries that reading slides does not need
SECONDS = 900  # for a library to be imported
SMALL = {"epochs": 1, "num_patches": 2, "inference_patches": 2, "max_pictures": 1}


def make_environment(folder: Path, wheel: Path, *, libraries: Path | None = None) -> Path:
    """A fresh environment with the wheel; its Python.

    Args:
        folder: where the environment is made.
        wheel: the wheel.
        libraries: ``site-packages`` of an environment that has all that the wheel needs; None: installed from the
            index, with every extra.
    """
    venv.create(folder, with_pip=libraries is None)
    python = folder / "bin" / "python"
    if libraries is None:
        extras = ",".join(list_extras(wheel))
        _call([str(python), "-m", "pip", "install", "-qq", f"{wheel}[{extras}]"], folder)
        if Path("/proc/modules").exists():  # without it cuCIM never ends beside a PyTorch for CUDA
            _call([str(python), "-m", "pip", "install", "-qq", "--no-deps", CUCIM], folder)
        return python
    install = ["install", "-qq", "--no-deps", "--no-index", str(wheel)]
    _call([sys.executable, "-m", "pip", "--python", str(python), *install], folder)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(f"{libraries}\n")
    return python


def list_extras(wheel: Path) -> list[str]:
    """The extras of a wheel, without that of cuCIM and the one of all."""
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        lines = file.read(metadata).decode().splitlines()
    extras = [line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")]
    return [extra for extra in extras if extra not in ("all", "cucim")]


def use_package(python: Path, folder: Path) -> dict[str, str]:
    """Run the example of the README, ``doctor``, and a training of a bundle on made images; what each printed."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    shutil.copytree(ROOT / "bundles" / "variants", folder / "variants")
    for part in ("configs", "docs"):
        shutil.copytree(ROOT / "bundles" / "bach" / part, folder / "bach" / part)

    printed = {"where": _call([str(python), "-c", "import monai_jsma; print(monai_jsma.__file__)"], folder)}
    printed["example"] = _call([str(python), "-c", example[1]], folder)
    patient = f"--timeout={SECONDS}"  # the machine may be busy
    printed["doctor"] = _call([str(python), "-m", "monai_jsma", "doctor", patient], folder)
    data = ["synthetic", str(folder / "data"), "--train=8", "--validation=4", "--test=4"]
    _call([str(python), "-m", "monai_jsma", *data], folder)
    configs = json.dumps(["configs/train.json", "../variants/demo.json"], separators=(",", ":"))
    options = [f"--{name}={value}" for name, value in {**SMALL, "dataset_dir": folder / "data"}.items()]
    command = [str(python), "-m", "monai.bundle", "run", "training", "--config_file", configs, *options]
    printed["training"] = _call(command, folder / "bach")
    assert (folder / "bach" / "models" / "model.pt").is_file()
    return printed


def _call(command: list[str], folder: Path) -> str:
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        python = make_environment(place / "env", Path(sys.argv[1]).resolve())
        printed = use_package(python, place)
        printed["versions"] = _call([str(python), "-m", "pip", "freeze"], place)
        for name, text in printed.items():
            print(f"--- {name}\n{text}")
