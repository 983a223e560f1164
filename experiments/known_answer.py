# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Does the attention find what tells the class? Trains variants of the bundle on pictures whose answer is known.

    python experiments/known_answer.py [--task mixed] [--variants defaults paper controls] [--seeds 0,1,2] [--out DIR]

Each seed has pictures of its own. Every network is asked for 1, 2, 5, as many patches as it was trained with, and all;
with features of length 1 also for as few as make the label certain. After each run ``tables.md`` and ``tables.json`` in
``DIR/TASK`` hold all that are finished; given again, the command completes what is missing.
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
from monai_jsma.cli.bundles import Variant, make_variants, parse_seeds
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
# Ten classes take more pictures, a wider f and a warm start, by any rule; a digit upside down may be another one.
DIGITS_SIZES = {"train": 4000, "validation": 300, "test": 500}
DIGITS = {
    "orientation_prob": 0.0, "patch_backbone#channels": [16, 32, 64, 64], "num_patches": 4, "batch_size": 30,
    "balanced": True, "warmup_patches": 16, "warmup_epochs": 3, "epochs": 12, "val_interval": 2,
}  # fmt: skip


def variants(names: Sequence[str]) -> list[Variant]:
    """The variants that are called so; ``controls`` and ``combinations`` are several.

    Raises:
        ValueError: for an unknown name.
    """
    single = [Variant("defaults", ("demo",)), Variant("paper", ("demo", "paper"))]
    controls = make_variants(
        BUNDLE, ["random_patches", "thumbnail_only", "single", "shuffled_labels"], configs=["demo"]
    )
    groups = {"controls": controls, "combinations": combinations()}
    groups |= {variant.name: [variant] for variant in (*single, *sum(groups.values(), []))}
    unknown = [name for name in names if name not in groups]
    if unknown:
        raise ValueError(f"--variants {unknown[0]!r}: choose from {', '.join(groups)}.")
    return list({variant.name: variant for name in names for variant in groups[name]}.values())


def combinations() -> list[Variant]:
    """The defaults with every rule and estimator, features plain or of length 1, and either normalization."""
    made = []
    for rule, features, normalization in product(RULES, ("l2", None), ("softmax", "sigmoid")):
        values = {
            "sampler": f"$monai_jsma.networks.{RULES[rule]}",
            "feature_norm": "$None" if features is None else features,  # MONAI passes over a plain None
            "normalization": normalization,
        }
        if rule == "pathwise/paper":  # Eq. 2 sums P f as it is, also in evaluation
            values["inference_sampler"] = "$monai_jsma.networks.TopK(@inference_patches, normalize=False)"
        name = "/".join((rule, features or "plain", normalization))
        made.append(Variant(name, ("demo",), values))
    return made


def plan(args: argparse.Namespace, variant: Variant, seed: int) -> tuple[AskedRun, dict[str, Any]]:
    """A run, and the datalist that it is tested on. Makes the pictures.

    Raises:
        ValueError: when the folder holds other pictures.
    """
    folder = args.out.resolve() / args.task
    data = folder / "data" / f"seed{seed}"
    path = data / "datalist.json"
    numbers = sizes(args)
    if not path.exists():
        make_dataset(
            data,
            num_train=numbers["training"],
            num_validation=numbers["validation"],
            num_test=numbers["test"],
            seed=seed,
            task=args.task,
        )
    content = json.loads(path.read_text())
    if content["settings"]["num_pictures"] != numbers:
        raise ValueError(f"{data} holds other numbers of pictures; name another --out.")
    values = {"data_list_file_path": path, "dataset_dir": data, "seed": seed, "num_classes": len(content["labels"])}
    asked = {"epochs": args.epochs, "num_patches": args.patches}
    values |= DIGITS if args.task == "digits" else {}
    values |= {name: value for name, value in asked.items() if value is not None} | variant.values
    training = {}
    if variant.shuffled:
        training["data_list_file_path"] = save_datalist(shuffle_labels(content, seed), data / "shuffled.json")
    name = variant.name.replace("/", "-")
    return AskedRun(BUNDLE, folder / name / f"seed{seed}", variant.configs, values, training), content


def sizes(args: argparse.Namespace) -> dict[str, int]:
    """Numbers of pictures on each side."""
    usual = DIGITS_SIZES if args.task == "digits" else SIZES
    asked = {side: getattr(args, side) for side in usual if getattr(args, side) is not None}
    train, validation, test = {**usual, **asked}.values()
    return {"training": train, "validation": validation, "test": test}


def run(args: argparse.Namespace) -> None:
    """Finish all runs. The tables are of all runs that are finished, whoever began them."""
    folder = args.out.resolve() / args.task
    for seed, variant in product(parse_seeds(args.seeds), variants(args.variants)):
        one, datalist = plan(args, variant, seed)
        one.finish()
        found = {"variant": variant.name, "seed": seed, **measure(one.records(), datalist), **one.cost}
        write_whole(one.folder / "measures.json", json.dumps(found, indent=1) + "\n")
        print(f"{variant.name}, seed {seed}: done", flush=True)
        runs = [json.loads(file.read_text()) for file in sorted(folder.glob("*/seed*/measures.json"))]
        write_whole(folder / "tables.json", json.dumps(runs, indent=1) + "\n")
        write_whole(folder / "tables.md", tables(runs))
    print(f"\n{tables(runs)}\n{folder / 'tables.md'}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train variants of the bundle on pictures whose answer is known.")
    parser.add_argument("--task", choices=CLASSES, default="sparse", help="default: %(default)s")
    parser.add_argument(
        "--variants", nargs="+", default=["defaults", "paper"], metavar="NAME",
        help="defaults, paper, controls (random_patches, thumbnail_only, shuffled_labels, each magnification alone), "
        "combinations (of rule, features and normalization), or one of these (default: defaults paper)",
    )  # fmt: skip
    parser.add_argument("--seeds", default="0,1,2,3,4", metavar="A,B,C", help="default: 0,1,2,3,4")
    for side, number in SIZES.items():
        text = f"{side} pictures (default: {number}, of digits {DIGITS_SIZES[side]})"
        parser.add_argument(f"--{side}", type=int, metavar="N", help=text)
    for name, setting in (("epochs", "epochs"), ("patches", "num_patches")):
        text = f"{name} in training (default: those of configs/demo.json, of digits {DIGITS[setting]})"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument("--out", type=Path, default=Path("known"), help="folder for all (default: %(default)s)")
    logging.disable(logging.INFO)  # MONAI tells of every epoch
    try:
        run(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"known_answer.py: error: {error}")


if __name__ == "__main__":
    main()
