# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the method costs beside its two backbones: attention, sampling, cropping, and all the rest of a step.

    python benchmarks/sampling.py [--bundle tcga_prad] [--batch-size 1] [--output sampling.json]

A step is timed with the real backbones, and with backbones that give a ready feature map: what is left is everything
else, from the thumbnail's transfer to the optimizer's step of the small layers. Attention, drawing and the cutting of
the drawn patches are timed by themselves as well. Times are ms of a batch, medians of interleaved repeats: of the
processor on a CPU, by the clock on a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import interleaved, table, write_report
from torch import Tensor, nn
from workload import MODULES, Workload, add_arguments

from monai_jsma.networks import Backbone, JSMANet, PatchSource, Pathwise, attention_dropout, top_cells

STEP, REST = "step", "all but the backbones"


class Ready(nn.Module):
    """A backbone that costs nothing: the same feature map for every image.

    Args:
        features: ``(1, channels, height, width)``.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features, self.num_features = nn.Parameter(features), features.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        return self.features.expand(len(images), -1, -1, -1)


def ready(workload: Workload) -> dict[str, nn.Module]:
    """Ready backbones, with feature maps of the real ones' shapes."""
    size = workload.options["patch_size"]
    images = {"thumbnail_encoder": workload.thumbnails[:1], "patch_encoder": torch.zeros(1, 3, size, size)}
    with torch.no_grad():
        return {
            name: Ready(Backbone(model, model.num_features).to(workload.device)(images[name].to(workload.device)))
            for name, model in workload.backbones.items()
        }


def parts(network: JSMANet, patches: PatchSource, phase: str) -> dict[str, Callable[[], object]]:
    """The parts of a step that choose and cut the patches: each by itself, on the same attention."""
    training = phase == "training"
    sampler = network.sampler
    assert isinstance(sampler, Pathwise)
    k = sampler.k
    maps = network.thumbnail_encoder.model(torch.empty(len(patches.grids))).detach()
    log_attention = network.attention(maps, patches.grids).detach()

    def draw() -> Tensor:
        if not training:
            return top_cells(log_attention, k).cells
        log_prob = attention_dropout(log_attention, network.attention_dropout, keep=k)
        return sampler.draw(log_prob).cells

    cells = draw().cpu()
    pictures = torch.arange(len(cells)).repeat_interleave(cells.shape[1])
    return {
        "attention": partial(network.attention, maps, patches.grids),
        "drawing": draw,
        "cropping": partial(patches.read, pictures, cells.flatten()),
    }


def measure(workload: Workload, phase: str, repeats: int) -> list[dict[str, Any]]:
    """A row a part: ms, and its share of a step."""
    patches = workload.patches(workload.magnifications, workload.args.batch_size)
    step = partial(workload.train if phase == "training" else workload.infer, patches=patches)
    real = workload.network(workload.magnifications)
    light = workload.network(workload.magnifications, **ready(workload))
    jobs = {STEP: partial(step, real, real.sampler.k), REST: partial(step, light, light.sampler.k)}
    jobs |= parts(light, patches, phase)
    seconds = interleaved({name: partial(_finish, workload, job) for name, job in jobs.items()}, repeats + 1)
    rows = []
    for name, each in seconds.items():
        share = each[1:, workload.meter] / seconds[STEP][1:, workload.meter]  # the first repeat warms up
        ms = float(np.median(each[1:, workload.meter])) * 1e3
        rows.append({phase: name, "ms": ms, "share of the step": float(np.median(share))})
    return rows


def _finish(workload: Workload, job: Callable[[], object], repeat: int) -> None:
    job()
    workload.wait()


def run(args: argparse.Namespace) -> None:
    """Measure, print a table a phase and write the report."""
    workload = Workload(args)
    workload.compile()
    results = {phase: measure(workload, phase, args.repeats) for phase in ("training", "inference")}
    for rows in results.values():
        print(f"\n{table(rows)}")
    write_report(args.output, workload.settings(), MODULES, results=results)
    print(f"\n{args.output}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time what a step does beside its backbones.")
    add_arguments(parser)
    parser.add_argument("--output", default="sampling.json", metavar="FILE", help="report (default: %(default)s)")
    try:
        run(parser.parse_args())
    except ValueError as error:
        sys.exit(f"sampling.py: error: {error}")


if __name__ == "__main__":
    main()
