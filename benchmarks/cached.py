# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Training with a frozen f: few patches against attention MIL over all, with a feature cache and without.

    python benchmarks/cached.py [--bundle tcga_prad] [--patch-backbone inception_v3] [--output cached.json]

Both networks are the bundle's, as in the paper (``paper.json``: the cells of a draw are different, so every patch
counts), with ``frozen.json`` and the second with ``attention_mil.json``, and share one f. An epoch is one step on all
images, which are in memory and of the size of the bundle's data set; pixels, weights and labels are random. Times are
processor times for one image, medians of interleaved repeats. From images without a meaning no attention is learned: it
stays nearly flat, and ours keeps drawing new cells, which is its most expensive case.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import interleaved, positive, run_program, table, write_report
from torch import Tensor, nn
from workload import MODULES, PICTURES, build_bare_backbone, make_images, read_network

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import AttentionMIL, JSMANet, PatchEncoder
from monai_jsma.slides import ArrayReader

OURS = "ours"
MIL = "attention MIL"
OVERLAYS = {OURS: ["paper", "frozen"], MIL: ["paper", "attention_mil", "frozen"]}


class Case(NamedTuple):
    """A row of the table: a network, what the cache holds when it starts (None: there is no cache), and its epochs."""

    network: str
    cache: str | None
    epochs: int = 1

    def __str__(self) -> str:
        kept = "features not kept" if self.cache is None else f"cache {self.cache}"
        name = f"{self.network}, {kept}"
        return name if self.epochs == 1 else f"{name}, {self.epochs} epochs"


class Run(NamedTuple):
    """A training of a case."""

    network: JSMANet | AttentionMIL
    optimizer: torch.optim.Optimizer
    cache: Path | None


class Frozen:
    """Images, an encoder that does not learn, and networks to train with it.

    Args:
        args: arguments of the command.
        folder: folder of all caches.
    """

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        torch.manual_seed(0)
        self.args = args
        self.folder = Path(folder)
        self.encoder = build_bare_backbone(args.patch_backbone, pooled=True)
        self.settings: dict[str, dict[str, Any]] = {}
        for name, overlays in OVERLAYS.items():
            options, _ = read_network(args.bundle, overlays, args.shrink)
            self.settings[name] = options

        ours = self.settings[OURS]
        ours["thumbnail_encoder"] = args.thumbnail_backbone
        self.pyramids = self._open(ours["magnifications"], ours["patch_size"])
        thumbnails = [pyramid.thumbnail(ours["thumbnail_size"]) for pyramid in self.pyramids]
        self.thumbnails = torch.from_numpy(np.stack(thumbnails))
        self.labels = torch.arange(args.pictures) % ours["num_classes"]

        self.runs: dict[tuple[Case, int], Run] = {}
        self.passes: dict[Case, list[float]] = defaultdict(list)
        self.bytes: dict[Case, int] = {}

    def prepare(self, case: Case, repeat: int) -> None:
        """Build the network of a case, the same each time. If its cache is full, it is read, and f hashed, here."""
        torch.manual_seed(0)
        cache = self._choose_cache(case, repeat)
        encoder = PatchEncoder(self.encoder, frozen=True, feature_cache=cache, chunk_size=self.args.chunk_size)
        build = AttentionMIL if case.network == MIL else JSMANet
        network = build(**self.settings[case.network], patch_encoder=encoder)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        optimizer = torch.optim.Adam(network.parameters())
        run = Run(network, optimizer, cache)
        self.runs[case, repeat] = run
        if case.cache == "full":
            self._step(run)

    def train(self, case: Case, repeat: int) -> None:
        """Run the epochs of a case, and record the passes through f for an image and the size of its cache."""
        run = self.runs.pop((case, repeat))
        encoded: list[int] = []

        def count(module: nn.Module, images: tuple[Tensor, ...]) -> None:
            encoded.append(len(images[0]))

        hook = self.encoder.register_forward_pre_hook(count)
        for _ in range(case.epochs):
            self._step(run)
        hook.remove()

        self.passes[case].append(sum(encoded) / len(self.labels))
        if run.cache is not None:
            files = run.cache.rglob("*.features")
            self.bytes[case] = sum(file.stat().st_size for file in files)

    def _choose_cache(self, case: Case, repeat: int) -> Path | None:
        if case.cache is None:
            return None
        name = "full" if case.cache == "full" else f"{case} {repeat}"
        return self.folder / name

    def _open(self, magnifications: list[float], patch_size: int) -> PyramidBatch:
        args = self.args
        images = make_images(args.pictures, args.bundle, shrink=args.shrink, enlarge=args.enlarge)
        pyramids = []
        for number, pixels in enumerate(images):
            pyramid = Pyramid(
                ArrayReader(pixels),
                mpp=min(magnifications),
                magnifications=magnifications,
                patch_size=patch_size,
                identity=f"image {number}",  # or nothing is cached
            )
            pyramids.append(pyramid)
        return PyramidBatch(pyramids)

    def _step(self, run: Run) -> None:
        run.optimizer.zero_grad()
        prediction = run.network(self.thumbnails, self.pyramids, return_attention=True)
        loss = JSMALoss(alpha=0.0)(prediction, self.labels)
        loss.backward()
        run.optimizer.step()


def run(args: argparse.Namespace) -> None:
    """Measure, print the table and write the report."""
    cases = []
    for name in (OURS, MIL):
        cases += [Case(name, None), Case(name, "empty"), Case(name, "full")]
    cases += [Case(OURS, "empty", args.epochs), Case(MIL, "empty", args.epochs)]

    repeats = args.repeats + 1  # the first warms up
    with tempfile.TemporaryDirectory() as folder:
        frozen = Frozen(args, folder)
        frozen.prepare(Case(MIL, "full"), 0)  # fills the cache of all that start with a full one
        for case in cases:
            for repeat in range(repeats):
                frozen.prepare(case, repeat)
        timed = interleaved({str(case): partial(frozen.train, case) for case in cases}, repeats)

    seconds = {case: timed[str(case)][1:, 1] / args.pictures for case in cases}
    rows = []
    for case, each in seconds.items():
        size = frozen.bytes.get(case)
        row = {
            "training": str(case),
            "CPU ms": 1e3 * float(np.median(each)),
            "of the first": float(np.median(each / seconds[cases[0]])),
            "passes through f": float(np.median(frozen.passes[case][1:])),
            "cache MB": None if size is None else size / 1e6,
        }
        rows.append(row)
    print(table(rows))

    num_cells = frozen.pyramids[0].geometry.num_cells
    settings = {**vars(args), "cells": num_cells, "threads": torch.get_num_threads()}
    every = {str(case): each.tolist() for case, each in seconds.items()}
    write_report(args.output, settings, MODULES, results=rows, repeats=every)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time the training of what follows a frozen encoder.")
    parser.add_argument("--bundle", choices=PICTURES, default="bach", help="default: %(default)s")
    for name, default in (("thumbnail", "mobilenetv3_small_100"), ("patch", "resnet18")):
        parser.add_argument(f"--{name}-backbone", metavar="NAME", default=default, help="timm name (%(default)s)")
    numbers = {"pictures": 4, "epochs": 20, "repeats": 3, "enlarge": 1, "shrink": 1, "chunk-size": 64}
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=positive, default=number, metavar="N", help="default: %(default)s")
    parser.add_argument("--output", default="cached.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
