# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Two processes against one: epochs of training and inference of a bundle, started by torchrun as on several GPUs.

    python benchmarks/processes.py [--backbone mobilenetv3_small_050] [--output processes.json]

Every process has one thread. The number of images in a step is the same in total, shared among the processes. Times are
seconds by the clock as MONAI's engines log them, without the start of the programs and without the first epoch, which
fills the cache; medians over epochs and over repeats that take turns. Each process needs an idle core.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import interleaved, positive, run_program, table, write_report
from workload import BUNDLES, MODULES

from monai_jsma.cli.bundles import build_command, find_configs
from monai_jsma.datalists import make_dataset
from monai_jsma.networks._torchvision import ensure_torchvision

BUNDLE = BUNDLES / "bach"
_EPOCH = re.compile(r"Epoch\[(\d+)\] Complete\. Time taken: (\d+):(\d+):([\d.]+)")


def find_epochs(log: str) -> dict[int, float]:
    """Seconds of every epoch in a log; where two engines log the same epoch, those of the first."""
    seconds_of: dict[int, float] = {}
    for epoch, hours, minutes, seconds in _EPOCH.findall(log):
        whole = int(hours) * 3600 + int(minutes) * 60
        seconds_of.setdefault(int(epoch), whole + float(seconds))
    return seconds_of


class Runs:
    """Trainings and inferences of the BACH bundle on synthetic images.

    Args:
        folder: folder of data, models and results.
        args: arguments of the command.
    """

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder = folder
        self.args = args
        self.seconds: dict[str, dict[int, list[float]]] = {"training": {1: [], 2: []}, "inference": {1: [], 2: []}}
        number = args.pictures
        make_dataset(folder / "data", num_train=number, num_validation=number, num_test=number)

    def run_both(self, processes: int, repeat: int) -> None:
        """Train, and infer with what was trained."""
        self.train(processes)
        self.infer(processes, repeat)

    def train(self, processes: int) -> None:
        """Time some epochs; the last one is not counted, because its validation is part of it."""
        last = self.args.epochs
        values = {
            "epochs": last,
            "val_interval": last,
            "batch_size": self.args.batch_size // processes,
        }
        log = self._call_torchrun(processes, "training", ["train", "demo", "multi_gpu_train"], values)
        seconds = [each for epoch, each in find_epochs(log).items() if 1 < epoch < last]
        self.seconds["training"][processes].append(float(np.median(seconds)))

    def infer(self, processes: int, repeat: int) -> None:
        """Time one pass over all images. Each repeat has a folder of its own, or nothing would be left to do."""
        values = {
            "workflow_type": "infer",
            "output_dir": self.folder / f"predictions_{processes}_{repeat}",
            "max_pictures": 0,
            "batch_size": self.args.batch_size // processes,
        }
        log = self._call_torchrun(processes, "evaluating", ["inference", "demo", "multi_gpu_inference"], values)
        seconds = list(find_epochs(log).values())
        self.seconds["inference"][processes].append(float(np.median(seconds)))

    def _call_torchrun(self, processes: int, run_id: str, configs: Sequence[str], values: Mapping[str, Any]) -> str:
        """Run the bundle in so many processes; returns the log."""
        values = {
            "dataset_dir": self.folder / "data",
            "ckpt_dir": self.folder / "models",
            "log_dir": self.folder / "runs",
            **values,
        }
        if self.args.backbone:
            values["thumbnail_backbone"] = self.args.backbone
            values["patch_backbone"] = self.args.backbone

        python, *bundle_run = build_command(run_id, find_configs(BUNDLE, *configs), values)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [python, *launcher, *bundle_run], cwd=BUNDLE, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ValueError(f"{run_id} in {processes} processes ended with exit code {done.returncode}: {done.stdout}")
        return done.stdout


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables and write the report."""
    if args.epochs < 3:
        raise ValueError(f"--epochs must be at least 3, but is {args.epochs}.")
    if args.batch_size % 2:
        raise ValueError(f"--batch-size must be an even number, but is {args.batch_size}.")

    ensure_torchvision()  # for its version
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), args)
        jobs = {str(processes): partial(runs.run_both, processes) for processes in (1, 2)}
        interleaved(jobs, args.repeats)

    rows = []
    for phase, seconds in runs.seconds.items():
        one = np.array(seconds[1])
        two = np.array(seconds[2])
        row = {
            phase: f"{args.pictures} images",
            "1 process (s)": float(np.median(one)),
            "2 processes (s)": float(np.median(two)),
            "speed-up": float(np.median(one / two)),
        }
        print(f"\n{table([row])}")
        rows.append(row)
    write_report(args.output, vars(args), MODULES, results=rows, repeats=runs.seconds)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time training and inference in two processes against one.")
    parser.add_argument("--backbone", metavar="NAME", help="h and f, a timm name (default: those of the demo)")
    parser.add_argument("--pictures", type=positive, default=256, metavar="N", help="images (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="images in a step of all processes (%(default)s)"
    )
    parser.add_argument("--epochs", type=positive, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--output", default="processes.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
