# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the method costs beside its two backbones: attention, sampling, cropping, and all the rest of a step.

    python benchmarks/sampling.py [--bundle tcga_prad] [--batch-size 1] [--output sampling.json]

A step is timed with the real backbones, and with backbones that return a fixed feature map: what is left is everything
else, from the thumbnail's transfer to the optimizer's step of the small layers. Attention, drawing and cutting the
drawn patches are timed separately as well. Times are ms of a batch, medians of interleaved repeats: processor time on a
CPU, by the clock on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import interleaved, run_program, table, write_report
from torch import Tensor, nn
from workload import MODULES, Workload, add_arguments

from monai_jsma.networks import Backbone, JSMANet, PatchSource, Pathwise, attention_dropout, top_cells

STEP = "step"
REST = "all but the backbones"


class Ready(nn.Module):
    """A backbone that costs nothing: the same feature map for every image.

    Args:
        features: feature map ``(1, channels, height, width)``.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Parameter(features)
        self.num_features = features.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        return self.features.expand(len(images), -1, -1, -1)


def make_ready(workload: Workload) -> dict[str, nn.Module]:
    """Ready backbones, with feature maps of the real ones' shapes."""
    size = workload.options["patch_size"]
    images = {
        "thumbnail_encoder": workload.thumbnails[:1],
        "patch_encoder": torch.zeros(1, 3, size, size),
    }
    ready: dict[str, nn.Module] = {}
    for name, model in workload.backbones.items():
        backbone = Backbone(model, model.num_features).to(workload.device)
        with torch.no_grad():
            features = backbone(images[name].to(workload.device))
        ready[name] = Ready(features)
    return ready


def make_parts(network: JSMANet, patches: PatchSource, phase: str) -> dict[str, Callable[[], object]]:
    """The parts of a step that choose and cut the patches: each alone, on the same attention."""
    sampler = network.sampler
    assert isinstance(sampler, Pathwise)
    thumbnails = torch.empty(len(patches.grids))  # of which a ready backbone needs the number alone
    features = network.thumbnail_encoder.model(thumbnails).detach()
    log_attention = network.attention(features, patches.grids).detach()

    def draw() -> Tensor:
        if phase == "inference":
            return top_cells(log_attention, sampler.k).cells
        log_prob = attention_dropout(log_attention, network.attention_dropout, keep=sampler.k)
        return sampler.draw(log_prob).cells

    cells = draw().cpu()
    images = torch.arange(len(cells)).repeat_interleave(cells.shape[1])
    return {
        "attention": partial(network.attention, features, patches.grids),
        "drawing": draw,
        "cropping": partial(patches.read, images, cells.flatten()),
    }


def measure(workload: Workload, phase: str, repeats: int) -> list[dict[str, Any]]:
    """Measure the parts of a step: a row for each with its ms, and its share of the step."""
    patches = workload.patches(workload.magnifications, workload.args.batch_size)
    real = workload.network(workload.magnifications)
    light = workload.network(workload.magnifications, **make_ready(workload))
    step = workload.train if phase == "training" else workload.infer
    jobs: dict[str, Callable[[], object]] = {
        STEP: partial(step, real, real.sampler.k, patches),
        REST: partial(step, light, light.sampler.k, patches),
        **make_parts(light, patches, phase),
    }
    timed = interleaved({name: partial(_finish, workload, job) for name, job in jobs.items()}, repeats + 1)
    seconds = {name: each[1:, workload.meter] for name, each in timed.items()}  # the first repeat warms up

    rows = []
    for name, each in seconds.items():
        milliseconds = 1e3 * float(np.median(each))
        share = float(np.median(each / seconds[STEP]))
        rows.append({phase: name, "ms": milliseconds, "share of the step": share})
    return rows


def _finish(workload: Workload, job: Callable[[], object], repeat: int) -> None:
    job()
    workload.wait()


def run(args: argparse.Namespace) -> None:
    """Measure, print a table for each phase and write the report."""
    workload = Workload(args)
    workload.compile()
    results = {phase: measure(workload, phase, args.repeats) for phase in ("training", "inference")}
    for rows in results.values():
        print(f"\n{table(rows)}")
    write_report(args.output, workload.settings(), MODULES, results=results)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time everything in a step but the backbones.")
    add_arguments(parser)
    parser.add_argument("--output", default="sampling.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
