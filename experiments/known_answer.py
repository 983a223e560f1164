# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Does the attention find what shows the class? Trains variants of the bundle on images with a known answer.

    python experiments/known_answer.py [--task mixed] [--variants defaults paper controls] [--seeds 0,1,2] [--out DIR]

Each seed has its own images. Every network predicts from 1, 2, 5, as many patches as in training, and all; with
features of length 1 also from as few as make the label certain. After each run ``tables.md`` and ``tables.json`` in
``DIR/TASK`` have all finished runs. Run again, the command completes what is missing.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from measures import measure, tables
from runs import AskedRun

from monai_jsma._io import write_whole
from monai_jsma.cli.bundles import parse_seeds
from monai_jsma.cli.variants import Variant, make_variants
from monai_jsma.datalists.schema import save_datalist
from monai_jsma.datalists.splits import shuffle_labels
from monai_jsma.datalists.synthetic import CLASSES, make_dataset
from monai_jsma.networks import ESTIMATORS

BUNDLE = Path(__file__).parents[1] / "bundles" / "bach"
RULES = {  # name of each rule, and its sampler
    "leave_one_out": "LeaveOneOut(@num_patches)",
    "prefix": "Prefix(@num_patches)",
    **{f"pathwise/{name}": f"Pathwise(@num_patches, estimator={name!r})" for name in ESTIMATORS},
}
SIZES = {"train": 512, "validation": 128, "test": 128}
# Ten classes take more images, a wider f and a warm start, by any rule; a digit upside down may be another one.
DIGITS_SIZES = {"train": 4000, "validation": 300, "test": 500}
DIGITS = {
    "orientation_prob": 0.0, "patch_backbone#channels": [16, 32, 64, 64], "num_patches": 4, "batch_size": 30,
    "balanced": True, "warmup_patches": 16, "warmup_epochs": 3, "epochs": 12, "val_interval": 2,
}  # fmt: skip


def choose_variants(names: Sequence[str]) -> list[Variant]:
    """Choose variants by name; ``controls`` and ``combinations`` name several.

    Raises:
        ValueError: for an unknown name.
    """
    controls = ["random_patches", "thumbnail_only", "single", "shuffled_labels"]
    groups = {
        "controls": make_variants(BUNDLE, controls, configs=["demo"]),
        "combinations": make_combinations(),
        "defaults": [Variant("defaults", ("demo",))],
        "paper": [Variant("paper", ("demo", "paper"))],
    }
    for variant in (*groups["controls"], *groups["combinations"]):
        groups[variant.name] = [variant]

    chosen: dict[str, Variant] = {}
    for name in names:
        if name not in groups:
            raise ValueError(f"--variants {name!r}: choose from {', '.join(groups)}.")
        chosen.update({variant.name: variant for variant in groups[name]})
    return list(chosen.values())


def make_combinations() -> list[Variant]:
    """The defaults with every rule and estimator, features plain or of length 1, and either normalization."""
    variants = []
    for rule, features, normalization in product(RULES, ("l2", None), ("softmax", "sigmoid")):
        values = {
            "sampler": f"$monai_jsma.networks.{RULES[rule]}",
            "feature_norm": features or "$None",  # MONAI ignores a plain None
            "normalization": normalization,
        }
        if rule == "pathwise/paper":  # Eq. 2 sums P f as it is, also in evaluation
            values["inference_sampler"] = "$monai_jsma.networks.TopK(@inference_patches, normalize=False)"
        name = "/".join((rule, features or "plain", normalization))
        variants.append(Variant(name, ("demo",), values))
    return variants


def plan_run(args: argparse.Namespace, variant: Variant, seed: int) -> tuple[AskedRun, dict[str, Any]]:
    """Make the images of a run; returns the run, and the datalist that it is tested on.

    Raises:
        ValueError: if the folder holds other images.
    """
    folder = args.out.resolve() / args.task
    data = folder / "data" / f"seed{seed}"
    datalist = _make_images(data, args, seed)

    values: dict[str, Any] = {
        "data_list_file_path": data / "datalist.json",
        "dataset_dir": data,
        "seed": seed,
        "num_classes": len(datalist["labels"]),
    }
    if args.task == "digits":
        values.update(DIGITS)
    if args.epochs is not None:
        values["epochs"] = args.epochs
    if args.patches is not None:
        values["num_patches"] = args.patches
    values.update(variant.values)

    training = {}
    if variant.shuffled:
        shuffled = shuffle_labels(datalist, seed)
        training["data_list_file_path"] = save_datalist(shuffled, data / "shuffled.json")
    name = variant.name.replace("/", "-")
    run = AskedRun(BUNDLE, folder / name / f"seed{seed}", variant.configs, values, training)
    return run, datalist


def _make_images(folder: Path, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Make the images of a seed, or find them there; returns their datalist."""
    sizes = choose_sizes(args)
    path = folder / "datalist.json"
    if not path.exists():
        make_dataset(
            folder,
            num_train=sizes["training"],
            num_validation=sizes["validation"],
            num_test=sizes["test"],
            seed=seed,
            task=args.task,
        )
    datalist = json.loads(path.read_text())
    if datalist["settings"]["num_pictures"] != sizes:
        raise ValueError(f"{folder} holds other numbers of images; name another --out.")
    return datalist


def choose_sizes(args: argparse.Namespace) -> dict[str, int]:
    """Choose the number of images of each split: those of the options, else the usual ones of the task."""
    usual = DIGITS_SIZES if args.task == "digits" else SIZES
    sizes = {}
    for split, option in (("training", "train"), ("validation", "validation"), ("test", "test")):
        number = getattr(args, option)
        sizes[split] = usual[option] if number is None else number
    return sizes


def run(args: argparse.Namespace) -> None:
    """Finish all runs. The tables have all finished runs, whichever command started them."""
    folder = args.out.resolve() / args.task
    for seed, variant in product(parse_seeds(args.seeds), choose_variants(args.variants)):
        one, datalist = plan_run(args, variant, seed)
        one.finish()
        measures = measure(one.records(), datalist)
        _write_json(one.folder / "measures.json", {"variant": variant.name, "seed": seed, **measures, **one.cost})
        print(f"{variant.name}, seed {seed}: done", flush=True)

        files = sorted(folder.glob("*/seed*/measures.json"))
        runs = [json.loads(file.read_text()) for file in files]
        _write_json(folder / "tables.json", runs)
        write_whole(folder / "tables.md", tables(runs))
    print(f"\n{tables(runs)}\n{folder / 'tables.md'}")


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train variants of the bundle on images with a known answer.")
    parser.add_argument("--task", choices=CLASSES, default="sparse", help="default: %(default)s")
    parser.add_argument(
        "--variants", nargs="+", default=["defaults", "paper"], metavar="NAME",
        help="defaults, paper, controls (random_patches, thumbnail_only, shuffled_labels, each magnification alone), "
        "combinations (of rule, features and normalization), or one of these (default: defaults paper)",
    )  # fmt: skip
    parser.add_argument("--seeds", default="0,1,2,3,4", metavar="A,B,C", help="default: 0,1,2,3,4")
    for side, number in SIZES.items():
        text = f"number of {side} images (default: {number}, for digits {DIGITS_SIZES[side]})"
        parser.add_argument(f"--{side}", type=int, metavar="N", help=text)
    for name, setting in (("epochs", "epochs"), ("patches", "num_patches")):
        text = f"{name} in training (default: those of variants/demo.json, for digits {DIGITS[setting]})"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument("--out", type=Path, default=Path("known"), help="folder for all (default: %(default)s)")
    logging.disable(logging.INFO)  # MONAI logs every epoch
    try:
        run(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"known_answer.py: error: {error}")


if __name__ == "__main__":
    main()
