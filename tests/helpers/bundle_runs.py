# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The bundles as they are shipped, and running copies of them on a few small pictures or slides."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from monai.bundle import create_workflow
from monai.bundle.workflows import ConfigWorkflow
from PIL import Image
from places import ROOT
from slide_files import levels_of, picture, write_pyramid
from warm_python import warm_python

from monai_jsma.cli.bundles import find_configs
from monai_jsma.data import make_dataset, save_datalist

VARIANTS = ROOT / "bundles" / "variants"
SHARED = ROOT.parent / "shared" / "data"
OUTPUTS = ("data", "eval", "features", "models", "predictions", "runs")  # what runs leave, as .gitignore has it


class Shipped(NamedTuple):
    """A bundle as it lies in the repository: its folder, and what its texts hold."""

    folder: Path
    configs: dict[str, dict[str, Any]]  # by name, with those of variants/; without the metadata
    metadata: dict[str, Any]
    card: str
    classes: list[str]  # in the order of their labels
    size: list[int]  # height and width that the metadata promise


def _shipped(name: str, classes: list[str], size: list[int]) -> Shipped:
    folder = ROOT / "bundles" / name
    paths = [*sorted((folder / "configs").glob("*.json")), *sorted(VARIANTS.glob("*.json"))]
    configs = {path.stem: json.loads(path.read_text()) for path in paths}
    return Shipped(folder, configs, configs.pop("metadata"), (folder / "docs" / "README.md").read_text(), classes, size)


BUNDLES = {
    "bach": _shipped("bach", ["Normal", "Benign", "InSitu", "Invasive"], [1536, 2048]),
    "tcga_prad": _shipped("tcga_prad", ["benign", "Gleason 3", "Gleason 4/5"], [2000, 2000]),
}
BUNDLE = BUNDLES["bach"].folder
each_bundle = pytest.mark.parametrize("shipped", BUNDLES.values(), ids=BUNDLES)

SMALL_BACKBONE = {"_target_": "monai_jsma.networks.ConvBackbone", "channels": [8, 16]}
NETWORK: dict[str, Any] = {
    "thumbnail_backbone": SMALL_BACKBONE,
    "patch_backbone": SMALL_BACKBONE,
    "num_patches": 2,
    "inference_patches": 2,
}
TINY: dict[str, Any] = {
    **NETWORK,
    "weights": None,
    "epochs": 2,
    "val_interval": 1,
    "batch_size": 4,
    "num_workers": 0,
    "max_pictures": 0,  # drawing takes longer than training
}
SMALL_PATCHES: dict[str, Any] = {"thumbnail_size": [32, 32], "patch_size": 32}  # as the slides of make_slides need


def copy_bundle(folder: Path, name: str = "bach") -> Path:
    """A fresh copy of a bundle, without what runs have left in it, and of variants/ beside it."""
    shutil.copytree(VARIANTS, folder / "variants", dirs_exist_ok=True)
    return Path(shutil.copytree(BUNDLES[name].folder, folder / name, ignore=shutil.ignore_patterns(*OUTPUTS)))


def copy_used(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle that ran, with its data and all that it wrote, and of variants/ beside it."""
    shutil.copytree(VARIANTS, folder / "variants")
    return Path(shutil.copytree(bundle, folder / bundle.name))


def make_pictures(folder: Path, *numbers: int) -> Path:
    """A datalist of small pictures; every second one is an uncompressed strip TIFF, as BACH's files are."""
    path = make_dataset(folder, num_train=numbers[0], num_validation=numbers[1], num_test=numbers[2])
    content = json.loads(path.read_text())
    for side in ("training", "validation", "test"):
        for item in content[side][::2]:
            png = folder / item["image"]
            item["image"] = str(Path(item["image"]).with_suffix(".tif"))
            Image.open(png).save(folder / item["image"])
            png.unlink()
            del item["sha256"]  # the checksum of the PNG; items need not all have the same keys
    path.write_text(json.dumps(content))
    return path


def make_slides(folder: Path, **sides: int) -> Path:
    """A datalist of regions of tiny SVS slides of 0.25 um per pixel: on each slide, one of every class.

    Args:
        folder: where slides and datalist go.
        sides: number of slides under each name.
    """
    (folder / "slides").mkdir(parents=True)
    content: dict[str, Any] = {"labels": {str(i): name for i, name in enumerate(BUNDLES["tcga_prad"].classes)}}
    for number, (side, slides) in enumerate(sides.items()):
        content[side] = []
        for i in range(slides):
            patient = f"TCGA-{number:02}-{i:04}"
            image = f"slides/{patient}-01Z-00-DX1.svs"
            pixels = picture(600, 1700, seed=100 * number + i)
            for label in range(3):
                pixels[:, 500 * label + 100 : 500 * label + 600, label] //= 2  # its own colour
                place = {"location": [64, 500 * label + 94], "size": [512, 512]}
                content[side].append({"image": image, "label": label, "patient": patient, **place})
            write_pyramid(folder / image, levels_of(pixels, (4,)), compression="jpeg", aperio_mpp=0.25)
    return save_datalist(content, folder / "datalist.json")


def copy_with_data(folder: Path, name: str, *numbers: int) -> Path:
    """A fresh copy of a bundle with data in ``data``: so many pictures of each split, or one small slide of each."""
    copy = copy_bundle(folder, name)
    if name == "bach":
        make_pictures(copy / "data", *numbers)
    else:
        make_slides(copy / "data", training=1, validation=1, test=1)
    return copy


def settings(bundle: Path, **overrides: Any) -> dict[str, Any]:
    """What a tiny run in ``bundle`` overrides; its data is ``bundle/data`` and all results stay in ``bundle``."""
    merged = {"bundle_root": str(bundle), **TINY, **overrides}
    return {name: "$None" if value is None else value for name, value in merged.items()}  # MONAI drops a plain None


def workflow(bundle: Path, *configs: str, workflow_type: str = "train", **overrides: Any) -> ConfigWorkflow:
    """The initialized workflow of these configurations, in this process."""
    files = [str(bundle / file) for file in find_configs(bundle, *configs)]
    options = settings(bundle, **overrides)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "parsing config_file")  # MONAI asks whether one trusts the configuration
        return create_workflow(config_file=files, workflow_type=workflow_type, logging_file=False, **options)


def run(bundle: Path, *configs: str, **overrides: Any) -> ConfigWorkflow:
    """Run a workflow in this process."""
    made = workflow(bundle, *configs, **overrides)
    made.run()
    made.finalize()
    return made


def command(run_id: str, *configs: str, processes: int = 0, fresh: bool = False, **overrides: Any) -> list[str]:
    """The command line of a run with the bundle's own configurations, by torchrun if there are ``processes``.

    Where it is not to be ``fresh``, its Python has imported everything before.
    """
    launcher = [sys.executable if fresh else str(warm_python()), "-m"]
    if processes:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    files = str([_config_file(name) for name in configs]).replace(" ", "")
    options = [f"--{name}={'$None' if value is None else value}" for name, value in overrides.items()]
    return [*launcher, "monai.bundle", "run", run_id, "--config_file", files, *options]


def _config_file(name: str) -> str:
    common = (VARIANTS / f"{name}.json").is_file()
    return f"../variants/{name}.json" if common else f"configs/{name}.json"


def execute(arguments: list[str], folder: Path, *, timeout: float = 150) -> tuple[int, str]:
    """Run a command and all that it starts; its exit code, negative for a signal, and what it wrote."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(arguments, cwd=folder, env=env, start_new_session=True, **streams)
    try:
        written = process.communicate(timeout=timeout)[0]
        return process.returncode, written
    finally:
        with contextlib.suppress(ProcessLookupError):  # a hanging process would keep its siblings waiting
            os.killpg(process.pid, signal.SIGKILL)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it; MONAI wraps what its configurations raise."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def rows(path: Path) -> dict[str, list[float]]:
    """Lines of a CSV file of MONAI's savers: a name and numbers."""
    lines = list(csv.reader(path.read_text().splitlines()))
    found = {name: [float(v) for v in values] for name, *values in lines}
    assert len(found) == len(lines), f"{path} names something twice"
    return found


def predicted(folder: Path) -> dict[str, list[float]]:
    """Probabilities of ``predictions.csv``, by the name of the file; of a region also row, column, height and width."""
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    files = [line["file"] for line in lines]
    found = {}
    for line in lines:
        place = [line[key] for key in ("row", "col", "height", "width")]
        regions = place[:2] != ["0", "0"] or files.count(line["file"]) > 1
        name = ":".join([line["file"], *place] if regions else [line["file"]])
        found[name] = [float(value) for key, value in line.items() if key.startswith("probability_")]
    assert len(found) == len(lines), f"{folder} names something twice"
    return found


def items(bundle: Path, side: str) -> list[dict[str, Any]]:
    """One side of the datalist of ``bundle``."""
    return json.loads((bundle / "data" / "datalist.json").read_text())[side]


def model(bundle: Path, name: str = "model.pt") -> dict[str, Any]:
    """A file of the folder of models, read as safely as MONAI reads it."""
    return torch.load(bundle / "models" / name, weights_only=True)
