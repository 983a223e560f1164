# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole slides of real tissue: zoom attention against random patches of the tissue, all of it, and flat attention.

    python experiments/real_slides.py MOSAICS [--out DIR] [--region-size N] [--thumbnail-size N] [--alpha A]
        [--inference-patches N] [--max-regions N] [--set NAME=VALUE ...] [--bets]

MOSAICS is a folder of ``python -m monai_jsma prepare mosaic --folds K``. The program is ``crossval`` with a fixed list
of variants, all with frozen encoders and patches of tissue only. Then it asks the records what ``crossval`` does not
know: how good each variant is where few cores decide, how many negative slides of each fold are called positive, and
how much of the attention lies on the positive cores. ``--bets`` tests the zoom once more, until the label of all
patches is known at 99 %, and with all patches. The tables are in ``OUT/tables.md`` and ``OUT/slides.md``; given again,
the command completes what is missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_roc_auc

from monai_jsma.__main__ import main as run_command
from monai_jsma._io import write_whole
from monai_jsma.cli.bundles import build_command, find_configs
from monai_jsma.predictions.records import PredictionRecord, read_records

Records = Sequence[PredictionRecord]  # of one run

BUNDLE = Path(__file__).parents[1] / "bundles" / "bach"
VARIANTS = {
    "zoom": "zoom+of_cores+many_first",
    "flat": "multi+many_first",
    "random": "balanced_random_patches+many_first",
    "attention MIL": "attention_mil",
}
OVERLAYS = {
    "slides": {"tissue_only": True, "num_patches": 16},
    "many_first": {"warmup_patches": 64, "warmup_epochs": 4},
    "of_cores": {"region_epochs": 4, "zoom_epochs": 2},
}
BETS = {
    "confident": "$monai_jsma.networks.Confident(0.99, max_patches=512, chunk=8)",
    "all": "$monai_jsma.networks.AllPatches()",
}


@dataclass(frozen=True)
class Mosaic:
    """What is known of a slide.

    Args:
        grid: rows and columns of places.
        positive: places of the positive cores, row and column.
        num_cores: number of cores.
    """

    grid: tuple[int, int]
    positive: frozenset[tuple[int, int]]
    num_cores: int

    @property
    def burden(self) -> float:
        """Share of its cores that are positive."""
        return len(self.positive) / self.num_cores


# ----------------------------------------------------------------------------------------------------------------- runs


def make_overlays(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The overlays of this experiment; what defines a variant may not be given as a value."""
    thumbnail_size = [args.thumbnail_size, args.thumbnail_size]
    own: dict[str, dict[str, Any]] = {
        "slides": {"alpha": args.alpha, "thumbnail_size": thumbnail_size},
        "of_cores": {
            "zoom_region_size": args.region_size,
            "thumbnail_size": thumbnail_size,
        },
    }
    if args.inference_patches is not None:
        own["many_first"] = {"inference_patches": args.inference_patches}
    if args.max_regions is not None:
        own["of_cores"]["inference_sampler#max_regions"] = args.max_regions
    return {name: {**overlay, **own.get(name, {})} for name, overlay in OVERLAYS.items()}


def copy_bundle(bundle: Path, out: Path, overlays: Mapping[str, Mapping[str, Any]]) -> Path:
    """A copy of a bundle with more overlays.

    Args:
        bundle: folder of the bundle.
        out: folder for all results.
        overlays: content of each by its name.
    """
    copy = out / "bundles" / bundle.name
    variants = copy.parent / "variants"
    shutil.copytree(bundle, copy, dirs_exist_ok=True)
    shutil.copytree(bundle.parent / "variants", variants, dirs_exist_ok=True)
    for name, overlay in overlays.items():
        write_whole(variants / f"{name}.json", json.dumps(overlay, indent=4) + "\n")
    return copy


def make_command(args: argparse.Namespace, bundle: Path) -> list[str]:
    """Arguments of ``python -m monai_jsma`` for this experiment."""
    command = ["crossval", str(args.mosaics / "datalist.json"), "--no-validation", f"--bundle={bundle}"]
    command.append("--split-seed=0")  # the folds of docs/results.md, which had other numbers than those of the mosaics
    for option in ("folds", "test_folds", "seeds", "jobs"):
        value = getattr(args, option)
        if value is not None:
            command.append(f"--{option.replace('_', '-')}={value}")
    command.append(f"--out={args.out}")
    command += ["--config", "pretrained", "slides"]
    command += ["--variants", *(VARIANTS[name] for name in args.variants)]
    values = [f"epochs={args.epochs}", f"val_interval={args.epochs}", "cache_rate=1.0", "num_workers=0"]
    return [*command, "--set", *values, *args.values]


def find_runs(out: Path, name: str) -> dict[int, list[Path]]:
    """The folders of the runs of a variant by test fold, one for each seed."""
    runs = defaultdict(list)
    for trained in sorted((out / VARIANTS[name]).glob("seed*/fold*/trained")):
        fold = int(trained.parent.name.removeprefix("fold"))
        runs[fold].append(trained.parent)
    return runs


def test_again(run: Path, kind: str, *, values: Mapping[str, str]) -> Path:
    """Test a trained zoom with another sampler, unless it was; returns the records.

    Args:
        run: folder of the run.
        kind: a key of ``BETS``.
        values: values of the command that trained it.

    Raises:
        subprocess.CalledProcessError: if the test fails.
    """
    records = run / kind / "predictions.jsonl"
    if records.exists():
        return records
    bundle = Path(values["bundle"])
    configs = ["pretrained", "slides", *VARIANTS["zoom"].split("+")]
    files = find_configs(bundle, "train", *configs, "evaluate")
    out = run.parents[2]
    settings = {
        "data_list_file_path": out / "datalists" / f"{run.name}.json",
        "dataset_dir": values["dataset_dir"],
        "ckpt_dir": run / "models",
        "output_dir": run / kind,
        "log_dir": run / "runs",
        "validation_list": "test",
        "num_classes": 2,
        "max_pictures": 0,
        "inference_sampler": BETS[kind],
        "seed": run.parent.name.removeprefix("seed"),
    }
    others = {name: value for name, value in values.items() if name not in ("bundle", "dataset_dir")}
    run_bundle(build_command("evaluating", files, {**settings, **others}), bundle, run / f"{kind}.log")
    return records


def run_bundle(command: Sequence[str], folder: Path, log: Path) -> None:
    """Run a command of MONAI in the folder of its bundle.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=True)


# --------------------------------------------------------------------------------------------------------------- tables


def read_mosaics(folder: Path) -> dict[str, Mosaic]:
    """What is known of each slide, by the name of its file."""
    settings = json.loads((folder / "datalist.json").read_text(encoding="utf-8"))["settings"]
    rows, cols = settings["grid"]
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    positive: dict[str, list[tuple[int, int]]] = defaultdict(list)
    lines = (folder / "cores.csv").read_text(encoding="utf-8").splitlines()
    for row in csv.DictReader(lines):
        name = Path(row["image"]).name
        place = (int(row["place_row"]), int(row["place_col"]))
        places[name].append(place)
        if row["positive"] == "1":
            positive[name].append(place)
    mosaics = {}
    for name, of_slide in places.items():
        mosaics[name] = Mosaic((rows, cols), frozenset(positive[name]), len(of_slide))
    return mosaics


def measure_mass(record: PredictionRecord, mosaic: Mosaic) -> float:
    """Share of the attention on places of positive cores; a cell, or a region of a zoom, is where its middle lies."""
    height, width = record.size
    rows, cols = mosaic.grid
    total = 0.0
    for index, share in enumerate(record.attention):
        box = record.geometry.cell_box(index)
        row = int((box.row + box.height / 2) / height * rows)
        col = int((box.col + box.width / 2) / width * cols)
        if (row, col) in mosaic.positive:
            total += share
    return total


def compute_auc(records: Iterable[PredictionRecord]) -> float:
    """Area under the ROC curve of class 1; NaN where there is one class only."""
    labels = [record.label for record in records]
    scores = [record.probabilities[1] for record in records]
    if len(set(labels)) < 2:
        return float("nan")
    return float(compute_roc_auc(torch.tensor(scores), torch.tensor(labels)))


def describe_variant(name: str, of_fold: Mapping[int, Sequence[Records]], mosaics: Mapping[str, Mosaic]) -> str:
    """Lines of a variant: scores of each fold and their means, AUC by burden, attention, what was read.

    Args:
        name: name of the variant.
        of_fold: of each fold the records of its runs, one for each seed. Scores are those of a run, and of a fold their
            mean: probabilities of different networks are not compared.
        mosaics: what is known of the slides.
    """
    folds = list(of_fold.values())
    every = [record for runs in folds for records in runs for record in records]
    lines = [
        f"{name}:",
        f"  AUC {_join(_average_runs(compute_auc, folds))}",
        f"  accuracy {_join(_average_runs(_count_right, folds))}",
        f"  negative slides called positive {_join(_average_runs(_count_false_alarms, folds))}",
    ]
    num_seeds = min(len(runs) for runs in folds)
    if num_seeds > 1:
        of_seeds = [_mean(compute_auc(runs[seed]) for runs in folds) for seed in range(num_seeds)]
        lines.append(f"  AUC of each seed {_join(of_seeds)}")
    burdens = sorted({_find(record, mosaics).burden for record in every if record.label == 1}, reverse=True)
    for burden in burdens:
        of_burden = [[_choose(records, mosaics, burden) for records in runs] for runs in folds]
        lines.append(f"  AUC at {burden:.0%} positive cores {_join(_average_runs(compute_auc, of_burden))}")
        positive = [record for record in _choose(every, mosaics, burden) if record.label == 1]
        masses = [measure_mass(record, _find(record, mosaics)) / burden for record in positive]
        lines.append(f"  attention on them, times their share of the cores {_mean(masses):.2f}")
    lines.append(f"  patches read {_mean(record.patches_read for record in every):.1f}")
    looked_at = [record.regions_looked_at for record in every if record.regions_looked_at is not None]
    if looked_at:
        lines.append(f"  regions looked at {_mean(looked_at):.1f}, at most {max(looked_at)}")
    return "\n".join(lines)


def describe_bets(confident: Sequence[Records], whole: Sequence[Records]) -> str:
    """Lines of the stopping by betting: how many labels were certified, after what, and how many are those of all.

    Args:
        confident: records of each run, until the label is sure enough.
        whole: records of the same runs, from all patches.
    """
    certified, agree = [], []
    for records, of_all in zip(confident, whole, strict=True):
        label_of_all = {record.key: record.prediction for record in of_all}
        sure = [record for record in records if record.certified]
        certified += sure
        agree += [record.prediction == label_of_all[record.key] for record in sure]
    number = sum(len(records) for records in confident)
    patches = [record.patches_read for record in certified]
    lines = [
        f"zoom, until the label of all patches is known at 99 %: {len(certified)} of {number} certified "
        f"({len(certified) / number:.2f}), {sum(agree)} of them with the label of all patches",
        f"  patches read of these {_mean(patches):.1f}, median {np.median(patches) if patches else float('nan'):.0f}",
        f"  AUC of a run, those that are not certified too: {_mean(compute_auc(records) for records in confident):.3f}",
        f"  with all patches: AUC of a run {_mean(compute_auc(records) for records in whole):.3f}",
    ]
    return "\n".join(lines)


def _find(record: PredictionRecord, mosaics: Mapping[str, Mosaic]) -> Mosaic:
    return mosaics[Path(record.file).name]


def _choose(records: Records, mosaics: Mapping[str, Mosaic], burden: float) -> Records:
    """The negative slides, and the positive ones of a burden."""
    return [record for record in records if record.label == 0 or _find(record, mosaics).burden == burden]


def _average_runs(measure: Callable[[Records], float], folds: Iterable[Sequence[Records]]) -> list[float]:
    """The mean of a measure over the runs of each fold."""
    return [_mean(measure(records) for records in runs) for runs in folds]


def _count_right(records: Records) -> float:
    return _mean(record.prediction == record.label for record in records)


def _count_false_alarms(records: Records) -> float:
    return _mean(record.prediction == 1 for record in records if record.label == 0)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else float("nan")


def _join(values: Sequence[float]) -> str:
    """The numbers of the folds, and their mean."""
    return f"{', '.join(f'{value:.3f}' for value in values)}: {np.mean(values):.3f}"


def write_tables(args: argparse.Namespace) -> None:
    """Write and print what the records tell."""
    mosaics = read_mosaics(args.mosaics)
    parts = []
    for name in args.variants:
        of_fold = {}
        for fold, runs in find_runs(args.out, name).items():
            of_fold[fold] = [read_records(run / "eval" / "predictions.jsonl") for run in runs]
        if of_fold:
            parts.append(describe_variant(name, of_fold, mosaics))
    if args.bets:
        parts.append(_bet(args))
    text = "\n\n".join(parts) + "\n"
    write_whole(args.out / "slides.md", text)
    print(text)


def _bet(args: argparse.Namespace) -> str:
    values = {"bundle": str(args.out / "bundles" / BUNDLE.name), "dataset_dir": str(args.mosaics)}
    for text in [*args.values, "cache_rate=1.0", "num_workers=0"]:
        name, _, value = text.partition("=")
        values[name] = value
    records: dict[str, list[Records]] = defaultdict(list)
    for runs in find_runs(args.out, "zoom").values():
        for run in runs:
            for kind in BETS:
                records[kind].append(read_records(test_again(run, kind, values=values)))
    return describe_bets(records["confident"], records["all"])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Zoom attention and its baselines on slides of real tissue.")
    add = parser.add_argument
    add("mosaics", type=Path, metavar="MOSAICS", help="folder of 'prepare mosaic'")
    add("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="only these (default: all)")
    add("--region-size", type=int, default=256, metavar="N", help="height and width of a region (default: %(default)s)")
    add("--thumbnail-size", type=int, default=448, metavar="N", help="that of a slide (default: %(default)s)")
    add("--inference-patches", type=int, metavar="N", help="patches that are drawn in the test (default: 16)")
    add("--max-regions", type=int, metavar="N", help="regions that the zoom draws in the test (default: 10)")
    add("--alpha", type=float, default=0.0, metavar="A", help="weight of the attention's divergence (default: 0)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="values", help="values for all variants")
    add("--epochs", type=int, default=20, metavar="N", help="epochs of a training (default: %(default)s)")
    add("--folds", default=3, metavar="K", help="number of folds of the mosaics (default: %(default)s)")
    add("--test-folds", metavar="A,B,C", help="folds to test on (default: all)")
    add("--seeds", default="0", metavar="A,B,C", help="random seeds of the training (default: %(default)s)")
    add("--out", type=Path, default=Path("real_slides"), metavar="DIR", help="folder for all results")
    add("--jobs", default=1, metavar="N", help="number of runs at the same time (default: %(default)s)")
    add("--bets", action="store_true", help="test the zoom until the label of all patches is known at 99 %%, too")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.mosaics = args.mosaics.resolve()
    bundle = copy_bundle(BUNDLE, args.out, make_overlays(args))
    failed = run_command(make_command(args, bundle))
    write_tables(args)
    return failed


if __name__ == "__main__":
    sys.exit(main())
