# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``demo``: the main job from pictures to attention images, on a task whose answer is known.

Runs the commands that a user of the bundle would type, and prints each of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_jsma.cli import Commands, add_command
from monai_jsma.cli.bundles import add_bundle, bundle_command, config_files, shown

__all__ = ["add_parser", "run"]

# These pictures carry their answer.
TRUTH = {"validate#additional_metrics#truth": '{"_target_":"monai_jsma.metrics.AttentionOnTruth"}'}


def add_parser(commands: Commands) -> None:
    """Add the command."""
    summary = "Make pictures with a known answer, train the bundle on them, evaluate it, tell where it looked."
    parser = add_command(commands, "demo", run, summary=summary)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all results (default: %(default)s)")
    add_bundle(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of pictures and training (default: %(default)s)"
    )
    parser.add_argument("--train", type=int, default=512, metavar="N", help="training pictures (default: %(default)s)")
    parser.add_argument("--test", type=int, default=128, metavar="N", help="test pictures (default: %(default)s)")
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs (default: those of configs/demo.json)")


def run(args: argparse.Namespace) -> None:
    """Make the data, train, evaluate and print the answer."""
    bundle, out = args.bundle.resolve(), args.out.resolve()
    configs = config_files(bundle, "train", "demo")
    settings = {"seed": args.seed, "train": args.train, "test": args.test, "epochs": args.epochs}
    settings["configs"] = [json.loads((bundle / c).read_text()) for c in configs]
    stamp = out / "finished.json"
    values = {"dataset_dir": out / "data", "ckpt_dir": out / "models", "output_dir": out / "eval", **TRUTH}
    if stamp.is_file() and json.loads(stamp.read_text()) == settings:
        print(f"{out} holds this demo already trained; remove the folder to train again.")
    else:
        stamp.unlink(missing_ok=True)
        sizes = f"--train={args.train}", f"--validation={args.test}", f"--test={args.test}", f"--seed={args.seed}"
        _call([sys.executable, "-m", "monai_jsma", "synthetic", str(out / "data"), *sizes], Path.cwd())
        epochs = {} if args.epochs is None else {"epochs": args.epochs}
        train = {**values, "log_dir": out / "runs", "seed": args.seed, **epochs}
        _call(bundle_command("training", configs, train), bundle)
        stamp.write_text(json.dumps(settings))
    evaluate = {**values, "validation_list": "test", "max_pictures": 16}
    _call(bundle_command("evaluating", [*configs, *config_files(bundle, "evaluate")], evaluate), bundle)
    datalist = json.loads((out / "data" / "datalist.json").read_text())
    print(summary(datalist, read_metrics(out / "eval" / "metrics.csv"), out))


def read_metrics(path: Path) -> dict[str, float]:
    """Metrics as MONAI's MetricsSaver writes them: a name and a value a line."""
    rows = (line.split(",") for line in path.read_text().splitlines())
    return {name: float(value) for name, value in rows}


def summary(datalist: Mapping[str, Any], metrics: Mapping[str, float], out: Path) -> str:
    """Accuracy, and the attention share of each magnification beside the true answer."""
    truth, classes = datalist["true_magnification"], len(datalist["labels"])
    lines = [
        "",
        f"accuracy on {len(datalist['test'])} test pictures  {metrics['val_accuracy']:.3f}  (chance {1 / classes:.3f})",
    ]
    shares = {name.removeprefix("attention_share_"): v for name, v in metrics.items() if "_share_" in name}
    for name, share in sorted(shares.items(), key=lambda item: float(item[0].removesuffix("X"))):
        enrichment = metrics[f"attention_enrichment_{name}"]
        note = "  <- the magnification that tells the class" if name == truth else ""
        lines.append(f"attention at {name:>5}  {share:6.1%}  ({enrichment:.2f} times its share of the cells){note}")
    lines += [
        "",
        f"TensorBoard log   tensorboard --logdir {out / 'runs'}",
        f"attention images  {out / 'eval' / 'attention'}",
    ]
    return "\n".join(lines)


def _call(command: Sequence[str], folder: Path) -> None:
    print(f"\n$ {shown(command)}", flush=True)
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode:
        raise ValueError(f"the command above stopped with exit code {done.returncode}; see its last lines.")
