# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Training with a frozen f: few patches against attention MIL over all, with their features kept and without.

    python benchmarks/cached.py [--bundle tcga_prad] [--patch-backbone inception_v3] [--output cached.json]

Both networks are the bundle's, as in the paper (``paper.json``: the cells of a draw are different, so every patch
counts), with ``frozen.json`` and the second with ``attention_mil.json``, and share one f. An epoch is one step on all
pictures, which are in memory and of the size of the bundle's data set; pixels, weights and labels are random. Times are
the processor's for one picture, medians of interleaved repeats. From pictures without a meaning no attention is
learned: it stays nearly flat, and ours goes on drawing new cells, which is its dearest case.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import interleaved, table, write_report
from workload import BUNDLES, MODULES, PICTURES, positive

from monai_jsma.cli.bundles import read_config
from monai_jsma.data import ArrayReader, Pyramid, PyramidBatch
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import AttentionMIL, JSMANet, PatchEncoder, build_backbone

OURS, MIL = "ours", "attention MIL"


class Case(NamedTuple):
    """A row of the table: a network, what the cache holds when it begins (None: there is no cache), and its epochs."""

    network: str
    cache: str | None
    epochs: int = 1

    def __str__(self) -> str:
        kept = "features not kept" if self.cache is None else f"cache {self.cache}"
        return f"{self.network}, {kept}" + (f", {self.epochs} epochs" if self.epochs > 1 else "")


class Run(NamedTuple):
    """A training of a case."""

    network: JSMANet | AttentionMIL
    optimizer: torch.optim.Optimizer
    cache: Path | None


class Frozen:
    """Pictures, an encoder that does not learn, and networks to train with it.

    Args:
        args: of the command.
        folder: of all caches.
    """

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        torch.manual_seed(0)
        self.args, self.folder = args, Path(folder)
        self.settings = {name: self._settings(name) for name in (OURS, MIL)}
        ours = self.settings[OURS]
        backbone = build_backbone(args.patch_backbone, None, pooled=True)
        self.encoder: Any = backbone.model
        self.encoder.num_features = backbone.num_features  # what a network asks of a module
        size = tuple(side * args.enlarge // args.shrink for side in PICTURES[args.bundle])
        grids = {name: ours[name] for name in ("magnifications", "patch_size")}
        random = np.random.default_rng(0)
        self.pyramids = PyramidBatch(
            Pyramid(
                ArrayReader(random.integers(0, 256, (*size, 3), np.uint8)),
                mpp=min(ours["magnifications"]),
                identity=f"picture {i}",
                **grids,
            )
            for i in range(args.pictures)
        )
        self.thumbnails = torch.from_numpy(np.stack([p.thumbnail(ours["thumbnail_size"]) for p in self.pyramids]))
        self.labels = torch.arange(args.pictures) % ours["num_classes"]
        self.runs: dict[tuple[Case, int], Run] = {}
        self.passes: dict[Case, list[float]] = defaultdict(list)
        self.bytes: dict[Case, int] = {}

    def prepare(self, case: Case, repeat: int) -> None:
        """A new network, the same each time; one that begins with a full cache looks at it, and hashes f, first."""
        torch.manual_seed(0)
        cache = {None: None, "full": self.folder / "full"}.get(case.cache, self.folder / f"{case} {repeat}")
        encoder = PatchEncoder(self.encoder, frozen=True, feature_cache=cache, chunk_size=self.args.chunk_size)
        options = {**self.settings[case.network], "patch_encoder": encoder}
        network: JSMANet | AttentionMIL = (AttentionMIL if case.network == MIL else JSMANet)(**options)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        run = self.runs[case, repeat] = Run(network, torch.optim.Adam(network.parameters()), cache)
        if case.cache == "full":
            self._step(run)

    def train(self, case: Case, repeat: int) -> None:
        """Run the epochs of a case, and note the passes through f for a picture and the size of its cache."""
        run, encoded = self.runs.pop((case, repeat)), list[int]()
        hook = self.encoder.register_forward_pre_hook(lambda _, images: encoded.append(len(images[0])))
        for _ in range(case.epochs):
            self._step(run)
        hook.remove()
        self.passes[case].append(sum(encoded) / len(self.labels))
        if run.cache is not None:
            self.bytes[case] = sum(file.stat().st_size for file in run.cache.rglob("*.features"))

    def _step(self, run: Run) -> None:
        run.optimizer.zero_grad()
        prediction = run.network(self.thumbnails, self.pyramids, return_attention=True)
        JSMALoss(alpha=0.0)(prediction, self.labels).backward()
        run.optimizer.step()

    def _settings(self, name: str) -> dict[str, Any]:
        args, overlays = self.args, ["paper", *(["attention_mil"] if name == MIL else []), "frozen"]
        parser = read_config(BUNDLES / args.bundle, overlays)
        del parser["network_def"]["patch_encoder"]
        settings = parser.get_parsed_content("network_def", instantiate=False).resolve_args()
        settings["patch_size"] //= args.shrink
        if name == OURS:
            settings["thumbnail_encoder"] = args.thumbnail_backbone
            settings["thumbnail_size"] = tuple(side // args.shrink for side in settings["thumbnail_size"])
        return settings


def run(args: argparse.Namespace) -> None:
    """Measure, print the table and write the report."""
    cases = [Case(name, cache) for name in (OURS, MIL) for cache in (None, "empty", "full")]
    cases += [Case(name, "empty", args.epochs) for name in (OURS, MIL)]
    with tempfile.TemporaryDirectory() as folder:
        frozen = Frozen(args, folder)
        frozen.prepare(Case(MIL, "full"), 0)  # fills the cache of all that begin with a full one
        for case, repeat in product(cases, range(args.repeats + 1)):  # the first warms up
            frozen.prepare(case, repeat)
        timed = interleaved({str(case): partial(frozen.train, case) for case in cases}, args.repeats + 1)
    seconds = {case: timed[str(case)][1:, 1] / args.pictures for case in cases}
    rows = []
    for case, each in seconds.items():
        rows.append({
            "training": str(case),
            "CPU ms": 1e3 * float(np.median(each)),
            "of the first": float(np.median(each / seconds[cases[0]])),
            "passes through f": float(np.median(frozen.passes[case][1:])),
            "cache MB": frozen.bytes[case] / 1e6 if case in frozen.bytes else None,
        })  # fmt: skip
    print(table(rows))
    settings = {**vars(args), "cells": frozen.pyramids[0].geometry.num_cells, "threads": torch.get_num_threads()}
    repeats = {str(case): each.tolist() for case, each in seconds.items()}
    write_report(args.output, settings, MODULES, results=rows, repeats=repeats)
    print(f"\n{args.output}")


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
    try:
        run(parser.parse_args())
    except ValueError as error:
        sys.exit(f"cached.py: error: {error}")


if __name__ == "__main__":
    main()
