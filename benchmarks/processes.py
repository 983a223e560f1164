# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Two processes against one: epochs of training and inference of a bundle, started by torchrun as on several GPUs.

    python benchmarks/processes.py [--backbone mobilenetv3_small_050] [--output processes.json]

Every process has one thread. The pictures of a step are as many in all, shared among the processes. Times are seconds
by the clock as MONAI's engines log them, without the start of the programs and without the first epoch, which fills
the cache; medians over epochs and over repeats that take turns. Each process needs an idle core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import interleaved, table, write_report
from workload import MODULES, positive

from monai_jsma.data import make_dataset
from monai_jsma.networks._torchvision import ensure_torchvision

ROOT = Path(__file__).parents[1]
_EPOCH = re.compile(r"Epoch\[(\d+)\] Complete\. Time taken: (\d+):(\d+):([\d.]+)")


def epochs(written: str) -> dict[int, float]:
    """Seconds of every epoch that a log tells of; where two engines tell of one, those of the first."""
    found: dict[int, float] = {}
    for epoch, hours, minutes, seconds in _EPOCH.findall(written):
        found.setdefault(int(epoch), int(hours) * 3600 + int(minutes) * 60 + float(seconds))
    return found


class Runs:
    """Trainings and inferences of the BACH bundle on pictures with a known answer.

    Args:
        folder: for data, models and results.
        args: of the command.
    """

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args
        number = args.pictures
        make_dataset(folder / "data", num_train=number, num_validation=number, num_test=number)
        self.seconds: dict[str, list[float]] = {}

    def both(self, processes: int, repeat: int) -> None:
        """Training, and inference with what was trained."""
        self.train(processes)
        self.infer(processes, repeat)

    def train(self, processes: int) -> None:
        """Some epochs; the last is not counted, because its validation is in it."""
        every = self.args.epochs
        values = {"epochs": every, "val_interval": every, "batch_size": self.args.batch_size // processes}
        written = self._torchrun(processes, "training", ["train", "demo", "multi_gpu_train"], values)
        self._keep("training", processes, [s for epoch, s in epochs(written).items() if 1 < epoch < every])

    def infer(self, processes: int, repeat: int) -> None:
        """One pass over all pictures; into a new folder, or it would be seen that all is done."""
        out = self.folder / f"predictions_{processes}_{repeat}"
        values = {
            "workflow_type": "infer",
            "output_dir": out,
            "max_pictures": 0,
            "batch_size": self.args.batch_size // processes,
        }
        written = self._torchrun(processes, "evaluating", ["inference", "demo", "multi_gpu_inference"], values)
        self._keep("inference", processes, list(epochs(written).values()))

    def _keep(self, phase: str, processes: int, seconds: list[float]) -> None:
        self.seconds.setdefault(_key(phase, processes), []).append(float(np.median(seconds)))

    def _torchrun(self, processes: int, run_id: str, configs: list[str], values: dict[str, Any]) -> str:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
        files = json.dumps([f"configs/{name}.json" for name in configs], separators=(",", ":")).replace('"', "'")
        folders = {"dataset_dir": "data", "ckpt_dir": "models", "log_dir": "runs"}
        values = {**{name: self.folder / folder for name, folder in folders.items()}, **values}
        if self.args.backbone:
            values |= {"thumbnail_backbone": self.args.backbone, "patch_backbone": self.args.backbone}
        options = [f"--{name}={value}" for name, value in values.items()]
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "monai.bundle", "run", run_id, "--config_file", files, *options],
            cwd=ROOT / "bundles" / "bach", env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ValueError(f"{run_id} in {processes} processes ended with exit code {done.returncode}: {done.stdout}")
        return done.stdout


def _key(phase: str, processes: int) -> str:
    return f"{phase}, {processes}"


def run(args: argparse.Namespace) -> None:
    """Measure, print the table and write the report."""
    if args.epochs < 3 or args.batch_size % 2:
        raise ValueError("--epochs must be at least 3, and --batch-size an even number.")
    ensure_torchvision()  # for its version
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), args)
        interleaved({str(n): partial(runs.both, n) for n in (1, 2)}, args.repeats)
    rows = []
    for phase in ("training", "inference"):
        one, two = (np.array(runs.seconds[_key(phase, n)]) for n in (1, 2))
        speedup = float(np.median(one / two))
        rows.append({phase: f"{args.pictures} pictures", "1 process (s)": float(np.median(one)),
                     "2 processes (s)": float(np.median(two)), "speed-up": speedup})  # fmt: skip
        print(f"\n{table(rows[-1:])}")
    write_report(args.output, vars(args), MODULES, results=rows, repeats=runs.seconds)
    print(f"\n{args.output}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time training and inference in two processes against one.")
    parser.add_argument("--backbone", metavar="NAME", help="h and f, a timm name (default: those of the demo)")
    parser.add_argument("--pictures", type=positive, default=256, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--epochs", type=positive, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--output", default="processes.json", metavar="FILE", help="report (default: %(default)s)")
    try:
        run(parser.parse_args())
    except ValueError as error:
        sys.exit(f"processes.py: error: {error}")


if __name__ == "__main__":
    main()
