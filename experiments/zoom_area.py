# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What does a larger slide cost? A network of ``zoom_slides.py`` on slides from the disk, to a label that is sure.

    python experiments/zoom_area.py [--run zoomed] [--seeds 0] [--sides 16 64 391] [--slides 3]

A slide of 16 x 16 regions has 4096 pixels a side, as in training; 64 x 64 regions have 16 times its area, and 391 x
391 have 100,096 pixels a side. The network stays as it was trained; the slide's thumbnail has 16 pixels for each
region. Of more than 128 regions along a side that would be too many pixels: a stage is put above, which draws windows
of 16 x 16 regions in proportion to their tissue, and the trained network goes on inside of them.

Each slide is opened, its tissue is found, and it is labeled from 16 paths, and until the label is that of all patches
at a confidence of 0.99; each time in a process of its own, after the imports and a first small slide. "s" is time by
the clock, "CPU s" that of the processor, "memory MB" the peak above that at the start. All figures are means over
slides.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zoom_slides import PLACE, REGION, SIDE, make_config, open_in_memory

from monai_jsma._io import write_whole
from monai_jsma.cli.bundles import parse_seeds
from monai_jsma.data import PyramidBatch
from monai_jsma.datalists.synthetic import CLASS_NAMES, GEOMETRY
from monai_jsma.datalists.synthetic_slides import SlideSettings, SyntheticSlide, make_slide, write_slide
from monai_jsma.networks import Confident, ConvBackbone, Pathwise, Sampler, ZoomNet, ZoomStage
from monai_jsma.transforms import FindTissue, LoadPyramid, PyramidThumbnail

WAYS: dict[str, Sampler] = {
    "16 paths": Pathwise(16, estimator="with_replacement"),
    "confidence 0.99": Confident(0.99, chunk=4),
}

_MOST_REGIONS = 128  # along a side that the trained root looks at itself


def load_network(seed: int, args: argparse.Namespace) -> ZoomNet:
    """The network of a seed."""
    config = make_config("zoom", seed, argparse.Namespace(out=args.run, region_weights="none"))
    config["feature_cache"] = None  # a slide that comes once needs none
    network = config.get_parsed_content("network_def")
    weights = torch.load(args.run / "zoom" / f"seed{seed}" / "trained.pt", weights_only=True)
    network.load_state_dict(weights)
    return network.eval()


def make_file(path: Path, number: int, side: int, args: argparse.Namespace) -> int:
    """Write a slide that no network was trained on; returns its label."""
    label = number % len(CLASS_NAMES)
    settings = SlideSettings(side=side, informative=args.share, variants=8)
    write_slide(path, make_slide(label, (1000, side, number), settings))
    return label


def measure_slide(path: Path, sampler: Sampler, network: ZoomNet, *, warm: SyntheticSlide) -> dict[str, float]:
    """Measure one slide, from its path to its label."""
    load = LoadPyramid(GEOMETRY.magnifications, GEOMETRY.patch_size)
    with torch.inference_mode():
        first = PyramidBatch([open_in_memory(warm, 0.5).pyramid])
        network(first.thumbnails(network.thumbnail_size), first, sampler=sampler)
        memory = find_peak()
        clock = time.perf_counter()
        processor = time.process_time()

        pyramid = FindTissue()(load(path))
        network = fit_to_slide(network, pyramid.geometry.size[0] // REGION)
        thumbnail = PyramidThumbnail(network.thumbnail_size)(pyramid).as_tensor()[None]
        output = network(thumbnail, PyramidBatch([pyramid]), return_attention=True, sampler=sampler)
        prediction = int(output["logits"].argmax())

        processor = time.process_time() - processor
        clock = time.perf_counter() - clock
    is_read = output["weights"][0] > 0
    places = torch.cat((output["regions"][0][is_read], output["cells"][0][is_read][:, None]), dim=1)
    row = {
        "prediction": float(prediction),
        "regions": float(output["num_regions"][0]),
        "patches": float(len(torch.unique(places, dim=0))),
        "s": clock,
        "CPU s": processor,
        "memory MB": find_peak() - memory,
    }
    if "certified" in output:
        row["certified"] = float(output["certified"][0])
    return row


def fit_to_slide(network: ZoomNet, side: int) -> ZoomNet:
    """The network for a slide of so many regions along a side."""
    root = network.stages[0]
    assert isinstance(root, ZoomStage)
    if side <= _MOST_REGIONS:
        root.thumbnail_size = (PLACE * side, PLACE * side)
        return network
    windows = -(-side // SIDE)
    above = ZoomStage(ConvBackbone((8,)), SIDE * REGION, (2 * windows, 2 * windows), tissue_power=1.0)
    for parameter in above.attention.parameters():
        torch.nn.init.zeros_(parameter)  # equal logits: tissue alone decides
    return ZoomNet(network.region_network, [above, root]).eval()


def find_peak() -> float:
    """The most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure_side(side: int, seed: int, args: argparse.Namespace, *, folder: Path) -> list[dict[str, Any]]:
    """Rows of all ways for slides of a size."""
    network = load_network(seed, args)
    warm = make_slide(0, (1000, 0), SlideSettings(side=16, informative=0.5, variants=1))
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(args.slides):
        path = folder / f"{side}.tif"
        label = make_file(path, number, side, args)
        for way, sampler in WAYS.items():
            with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:  # a peak of memory of its own
                row = pool.submit(partial(measure_slide, warm=warm), path, sampler, network).result()
            row["right"] = float(row.pop("prediction") == label)
            rows[way].append(row)
    means = []
    for way, same in rows.items():
        measures = {name: float(np.mean([row[name] for row in same])) for name in same[0]}
        means.append({"pixels": side * REGION, "way": way, "seed": seed, **measures})
    return means


def make_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of all rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        cells = []
        for name in names:
            value = row.get(name, "")
            cells.append(f"{value:.3g}" if isinstance(value, float) else str(value))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(args: argparse.Namespace) -> None:
    """Measure all sizes, print the table and write it beside the runs."""
    torch.set_num_threads(1)
    args.run = args.run.resolve()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in parse_seeds(args.seeds):
            for side in args.sides:
                rows += measure_side(side, seed, args, folder=Path(folder))
    write_whole(args.run / "area.json", json.dumps(rows, indent=1) + "\n")
    write_whole(args.run / "area.md", make_table(rows))
    print(make_table(rows))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="What slides of other sizes cost, from the disk to a sure label.")
    add = parser.add_argument
    add("--run", type=Path, default=Path("zoomed"), metavar="DIR", help="folder of zoom_slides.py (default: zoomed)")
    add("--seeds", default="0", metavar="A,B,C", help="seeds of the networks (default: 0)")
    add("--sides", type=int, nargs="+", default=[16, 64, 391], metavar="N", help="regions along a slide")
    add("--slides", type=int, default=3, metavar="N", help="slides of each size (default: 3)")
    add("--share", type=float, default=0.1, metavar="X", help="informative share of the tissue (default: 0.1)")
    logging.disable(logging.INFO)
    try:
        run(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"zoom_area.py: error: {error}")


if __name__ == "__main__":
    main()
