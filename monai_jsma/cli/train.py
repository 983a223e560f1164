# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``demo`` trains a bundle on images with a known answer; ``compare`` and ``crossval`` train and test its variants.

Each run of the latter has a folder ``VARIANT/seedS/foldF`` for its models, logs and predictions. The same command
continues what was interrupted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_jsma._io import write_whole
from monai_jsma.cli import Commands, add_command, parse_whole
from monai_jsma.cli.bundles import (
    TrainingRun,
    Variant,
    add_bundle_option,
    build_command,
    find_configs,
    finish_runs,
    format_command,
    make_variants,
    parse_seeds,
    read_config,
)

__all__ = ["add_commands", "format_answer", "read_metrics", "train_demo", "train_variants"]

Runs = dict[tuple[str, int, int], TrainingRun]  # by variant, seed and fold

# The demo's images carry their answer.
_TRUTH_METRIC = {"validate#additional_metrics#truth": '{"_target_":"monai_jsma.metrics.AttentionOnTruth"}'}


def add_commands(commands: Commands) -> None:
    """Add ``demo``, ``compare`` and ``crossval``."""
    _add_demo(commands)
    _add_compare(commands)
    _add_crossval(commands)


def _add_demo(commands: Commands) -> None:
    summary = "Make images with a known answer, train the bundle on them, evaluate it, and print where it looked."
    parser = add_command(commands, "demo", train_demo, summary=summary)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="folder for all results (default: %(default)s)"
    )
    add_bundle_option(parser)
    parser.add_argument(
        "--seed",
        type=parse_whole(),
        default=0,
        metavar="S",
        help="random seed of images and training (default: %(default)s)",
    )
    parser.add_argument(
        "--train",
        type=parse_whole(1),
        default=512,
        metavar="N",
        help="number of training images (default: %(default)s)",
    )
    parser.add_argument(
        "--test", type=parse_whole(1), default=128, metavar="N", help="number of test images (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=parse_whole(1), metavar="N", help="number of epochs (default: that of configs/demo.json)"
    )


def train_demo(args: argparse.Namespace) -> None:
    """Make the images, train, evaluate and print the answer, as the commands that a user would type."""
    bundle = args.bundle.resolve()
    out = args.out.resolve()
    configs = find_configs(bundle, "train", "demo")
    values = {
        "dataset_dir": out / "data",
        "ckpt_dir": out / "models",
        "output_dir": out / "eval",
        **_TRUTH_METRIC,
    }

    finished = out / "finished.json"
    settings = {
        "seed": args.seed,
        "train": args.train,
        "test": args.test,
        "epochs": args.epochs,
        "configs": [json.loads((bundle / file).read_text()) for file in configs],
    }
    if finished.is_file() and json.loads(finished.read_text()) == settings:
        print(f"{out} holds this demo already trained; remove the folder to train again.")
    else:
        finished.unlink(missing_ok=True)
        _make_images(args, out / "data")
        training_values = {**values, "log_dir": out / "runs", "seed": args.seed}
        if args.epochs is not None:
            training_values["epochs"] = args.epochs
        _run_command(build_command("training", configs, training_values), bundle)
        write_whole(finished, json.dumps(settings))

    test_values = {**values, "validation_list": "test", "max_pictures": 16}
    test_configs = find_configs(bundle, "train", "demo", "evaluate")
    _run_command(build_command("evaluating", test_configs, test_values), bundle)
    datalist = json.loads((out / "data" / "datalist.json").read_text())
    print(format_answer(datalist, read_metrics(out / "eval" / "metrics.csv"), out))


def _make_images(args: argparse.Namespace, folder: Path) -> None:
    command = [sys.executable, "-m", "monai_jsma", "synthetic", str(folder)]
    command += [f"--train={args.train}", f"--validation={args.test}", f"--test={args.test}"]
    command.append(f"--seed={args.seed}")
    _run_command(command, Path.cwd())


def _run_command(command: Sequence[str], folder: Path) -> None:
    print(f"\n$ {format_command(command)}", flush=True)
    process = subprocess.run(command, cwd=folder, check=False)
    if process.returncode:
        raise ValueError(f"the command above stopped with exit code {process.returncode}; see its last lines.")


def read_metrics(path: Path) -> dict[str, float]:
    """Read metrics as MONAI's MetricsSaver writes them: a name and a value in each line."""
    metrics = {}
    for line in path.read_text().splitlines():
        name, value = line.split(",")
        metrics[name] = float(value)
    return metrics


def format_answer(datalist: Mapping[str, Any], metrics: Mapping[str, float], out: Path) -> str:
    """The accuracy, and the attention share of each magnification beside the true answer.

    Args:
        datalist: datalist of the images, with their true magnification.
        metrics: metrics of the test by name.
        out: folder of the demo.
    """
    num_images = len(datalist["test"])
    chance = 1 / len(datalist["labels"])
    lines = ["", f"accuracy on {num_images} test images  {metrics['val_accuracy']:.3f}  (chance {chance:.3f})"]

    prefix = "attention_share_"
    magnifications = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    for name in sorted(magnifications, key=_read_power):
        share = metrics[f"attention_share_{name}"]
        enrichment = metrics[f"attention_enrichment_{name}"]
        line = f"attention at {name:>5}  {share:6.1%}  ({enrichment:.2f} times its share of the cells)"
        if name == datalist["true_magnification"]:
            line += "  <- the magnification that shows the class"
        lines.append(line)

    lines += [
        "",
        f"TensorBoard log   tensorboard --logdir {out / 'runs'}",
        f"attention images  {out / 'eval' / 'attention'}",
    ]
    return "\n".join(lines)


def _read_power(magnification: str) -> float:
    return float(magnification.removesuffix("X"))


def _add_compare(commands: Commands) -> None:
    summary = "Train and test variants of a bundle on a datalist's own split, such as each single magnification."
    parser = add_command(commands, "compare", train_variants, summary=summary)
    _add_variant_options(parser, variants=["multi", "single"], out="compare")
    parser.add_argument("--test-list", default="test", metavar="NAME", help="split to test on (default: %(default)s)")
    parser.set_defaults(folds=None, no_validation=False)


def _add_crossval(commands: Commands) -> None:
    summary = "Train and test a bundle on every fold of a datalist, split by group, with one or more seeds."
    parser = add_command(commands, "crossval", train_variants, summary=summary)
    _add_variant_options(parser, variants=["multi"], out="crossval")
    parser.add_argument(
        "--folds", type=parse_whole(2), default=5, metavar="K", help="number of folds (default: %(default)s)"
    )
    parser.add_argument(
        "--split-seed",
        type=parse_whole(),
        default=0,
        metavar="S",
        help="random seed of the folds (default: %(default)s)",
    )
    parser.add_argument(
        "--no-validation",
        action="store_true",
        help="train on all other folds, and keep the model that fits the training images best: for few groups",
    )
    parser.set_defaults(test_list="test")


def _add_variant_options(parser: argparse.ArgumentParser, *, variants: list[str], out: str) -> None:
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="the JSON file")
    add_bundle_option(parser)
    parser.add_argument(
        "--variants",
        nargs="+",
        default=variants,
        metavar="NAME",
        help="variants to compare: multi (the bundle as it is), single (each magnification by itself), shuffled_labels "
        f"(which must learn nothing), or overlays such as random_patches (default: {' '.join(variants)})",
    )
    parser.add_argument("--config", nargs="+", default=[], metavar="NAME", help="overlays for all variants")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        dest="values",
        help="values that replace those of the configuration",
    )
    parser.add_argument(
        "--seeds", default="0", metavar="A,B,C", help="random seeds of the training (default: %(default)s)"
    )
    parser.add_argument(
        "--base-dir", type=Path, metavar="DIR", help="folder of relative image paths (default: that of the datalist)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help="folder for all results (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=parse_whole(1),
        default=1,
        metavar="N",
        help="number of runs at the same time (default: %(default)s)",
    )


def train_variants(args: argparse.Namespace) -> int:
    """Finish all runs and print a table of the variants; 1 if a run failed."""
    from monai_jsma.report.experiment import write_experiment

    out = args.out.resolve()
    runs = _plan_runs(args, out)
    num_failed = 0
    for number, (run, error) in enumerate(finish_runs(list(runs.values()), args.jobs), start=1):
        print(f"[{number}/{len(runs)}] {run.folder.relative_to(out)}: {error or 'done'}", flush=True)
        if error is not None:
            num_failed += 1
    if num_failed:
        print(f"{num_failed} of {len(runs)} runs failed; correct what they report and give the same command again")
        return 1

    predictions = {key: run.predictions for key, run in runs.items()}
    for line in write_experiment(predictions, out):
        print(line)
    return 0


def _plan_runs(args: argparse.Namespace, out: Path) -> Runs:
    """The runs of all variants, seeds and folds. Writes their datalists and settings."""
    bundle = args.bundle.resolve()
    seeds = parse_seeds(args.seeds)
    values = _parse_values(args.values)
    variants = make_variants(bundle, args.variants, configs=args.config, values=values)
    for variant in variants:
        read_config(bundle, variant.configs, variant.values)  # a wrong value ends the command, not each run
    base_dir = (args.base_dir or args.datalist.parent).resolve()
    datalists = _write_datalists(args, out, base_dir)

    runs = {}
    for variant in variants:
        _record_settings(variant, bundle, folder=out / variant.name, base_dir=base_dir)
        common = {"dataset_dir": base_dir, "max_pictures": 0, **variant.values}
        if args.no_validation:
            common["validation_list"] = "training"
        for fold, datalist in enumerate(datalists):
            for seed in seeds:
                training_values = {}
                if variant.shuffled:
                    training_values["data_list_file_path"] = _write_shuffled(datalist, seed)
                runs[variant.name, seed, fold] = TrainingRun(
                    bundle=bundle,
                    folder=out / variant.name / f"seed{seed}" / f"fold{fold}",
                    configs=variant.configs,
                    values={**common, "data_list_file_path": datalist, "seed": seed},
                    training_values=training_values,
                    test_list=args.test_list,
                )
    return runs


def _parse_values(texts: Sequence[str]) -> dict[str, str]:
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f"--set '{text}': NAME=VALUE was expected, such as epochs=20.")
        values[name] = "$None" if value == "None" else value  # MONAI passes over a plain None
    return values


def _write_datalists(args: argparse.Namespace, out: Path, base_dir: Path) -> list[Path]:
    """Write a datalist for each fold, or the datalist itself if there are no folds."""
    from monai_jsma.datalists.schema import check_items, read_datalist, save_datalist
    from monai_jsma.datalists.splits import make_fold_datalists

    content = read_datalist(args.datalist)
    check_items(content, args.datalist)
    datalists: Sequence[Mapping[str, Any]] = [content]
    if args.folds is not None:
        validation = not args.no_validation
        try:
            datalists = make_fold_datalists(content, args.folds, args.split_seed, validation=validation, base=base_dir)
        except ValueError as error:
            raise ValueError(f"{args.datalist}: {error}") from error

    _record(out / "datalists.json", datalists)
    paths = []
    for fold, datalist in enumerate(datalists):
        paths.append(save_datalist(datalist, out / "datalists" / f"fold{fold}.json"))
    return paths


def _write_shuffled(path: Path, seed: int) -> Path:
    """Write a copy of a datalist with randomly permuted labels beside it."""
    from monai_jsma.datalists.schema import read_datalist, save_datalist
    from monai_jsma.datalists.splits import shuffle_labels

    content = shuffle_labels(read_datalist(path), seed)
    return save_datalist(content, path.with_name(f"{path.stem}_shuffled{seed}.json"))


def _record_settings(variant: Variant, bundle: Path, *, folder: Path, base_dir: Path) -> None:
    configs = {}
    for file in find_configs(bundle, "train", *variant.configs):
        configs[file] = json.loads((bundle / file).read_text())
    settings = {"values": variant.values, "base_dir": str(base_dir), "configs": configs}
    _record(folder / "settings.json", settings)


def _record(path: Path, settings: Any) -> None:
    """Write settings, or check that they are those of an earlier command: runs of different settings must not mix."""
    text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{path.parent} holds runs of other data or settings; name another --out.")
    write_whole(path, text)
