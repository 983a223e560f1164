# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``demo`` trains a bundle on images with a known answer."""

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
    add_bundle_option,
    build_command,
    find_configs,
    format_command,
)

__all__ = ["add_commands", "format_answer", "read_metrics", "train_demo"]

# The demo's images carry their answer.
_TRUTH_METRIC = {"validate#additional_metrics#truth": '{"_target_":"monai_jsma.metrics.AttentionOnTruth"}'}


def add_commands(commands: Commands) -> None:
    """Add ``demo``."""
    _add_demo(commands)


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
        "--epochs", type=parse_whole(1), metavar="N", help="number of epochs (default: that of variants/demo.json)"
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
