# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From a slide on disk to its prediction, or a training step: ours with a few patches, with all, the usual pipeline.

    python benchmarks/end_to_end.py [--quick] [--backbone inception_v3] [--output end_to_end.json]

The usual pipeline reads the grid of the finest magnification by OpenSlide, encodes every patch and classifies by
attention MIL. All ways have the same patch encoder, with random weights, and run in a separate process each time;
libraries, networks and a first patch are loaded before the clock starts. Slides are JPEG pyramids whose levels halve
down to 512 pixels a side; repeated tiles share their bytes. Ours predicts slides of every size, the others up to
``--all`` pixels a side. "CPU s" is the processor time in all threads, "of ours" that time divided by the first row's of
its size, "tiles" the number of different tiles under what was read, "decoded" that number if each patch decodes its
own, "read MB" what the process read, from the disk or its cache, and "memory MB" its peak above that at the start. All
figures are medians.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import in_own_process, now, peak_memory, run_program, table, write_report
from decoded import Decoded
from slide import TILE, make_slide

from monai_jsma.data import PyramidBatch
from monai_jsma.networks import AllPatches, AttentionMIL, JSMANet, PatchEncoder, Pathwise
from monai_jsma.networks._torchvision import ensure_torchvision
from monai_jsma.transforms import LoadPyramid, PyramidThumbnail

MODULES = ("monai_jsma", "cucim", "openslide", "tifffile", "imagecodecs", "monai", "timm", "numpy", "torch")
MPP = 0.25  # of level 0
DOWNSAMPLES = (4, 2, 1)  # of the magnifications
THUMBNAIL = (224, 224)
COUNTS = ("patches", "tiles", "decoded")
FULL: dict[str, Any] = {"sizes": (2048, 8192, 32_768, 100_000), "all": 8192, "repeats": 3}
QUICK: dict[str, Any] = {"sizes": (2048, 8192), "all": 2048, "repeats": 1}


class Way(NamedTuple):
    """A way to a prediction: which patches, how many of them, and by which library they are read."""

    name: str
    patch_size: int
    aligned: bool
    all_patches: bool = False
    reader: str = "cucim"
    usual: bool = False
    training: bool = False


WAYS = (
    Way("ours, aligned", 256, True),
    Way("ours, 299", 299, False),
    Way("ours, a training step", 256, True, training=True),
    Way("all, aligned", 256, True, all_patches=True),
    Way("all, 299", 299, False, all_patches=True),
    Way("usual pipeline", 256, True, all_patches=True, reader="openslide", usual=True),
)


def predict(way: Way, path: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure one slide, from its path to its prediction, or to the gradient of it."""
    downsamples = DOWNSAMPLES[-1:] if way.usual else DOWNSAMPLES
    magnifications = [MPP * down for down in downsamples]
    network = _build_network(way, magnifications, args).train(way.training)
    load = LoadPyramid(magnifications, way.patch_size, reader=way.reader, aligned=way.aligned)
    sampler = AllPatches() if way.all_patches else None  # None: the network's own

    with torch.inference_mode(not way.training):
        _warm_up(network, way.patch_size)
        memory = peak_memory()
        disk = _count_bytes_read()
        start = now()

        pyramid = load(path)
        decoded = Decoded(pyramid)
        image = torch.zeros(1)  # the usual pipeline has no thumbnail
        if not way.usual:
            image = PyramidThumbnail(THUMBNAIL)(pyramid).as_tensor()[None]
        of_thumbnail = len(decoded.windows)
        logits = network(image, PyramidBatch([pyramid]), sampler=sampler)
        if way.training:
            target = torch.zeros(1, dtype=torch.long)
            torch.nn.functional.cross_entropy(logits, target).backward()

        clock, processor = (now() - start).tolist()

    megabytes = (_count_bytes_read() - disk) / 1e6
    peak = peak_memory() - memory
    tiles = decoded.tiles()
    return {
        "patches": len(decoded.windows) - of_thumbnail,
        "tiles": len(set(tiles)),
        "decoded": len(tiles),
        "s": clock,
        "CPU s": processor,
        "read MB": megabytes,
        "memory MB": peak,
    }


def _build_network(way: Way, magnifications: Sequence[float], args: argparse.Namespace) -> JSMANet | AttentionMIL:
    torch.manual_seed(0)
    encoder = PatchEncoder(args.backbone, chunk_size=16)
    if way.usual:
        return AttentionMIL(2, magnifications, weights=None, patch_encoder=encoder)
    return JSMANet(
        2,
        magnifications,
        weights=None,
        sampler=Pathwise(args.patches),
        thumbnail_encoder=args.thumbnail_backbone,
        patch_encoder=encoder,
    )


def _warm_up(network: JSMANet | AttentionMIL, patch_size: int) -> None:
    network.patch_encoder(torch.zeros(2, 3, patch_size, patch_size))  # two: batch statistics need them in training
    if isinstance(network, JSMANet):
        grids = [((1, 1),) * len(DOWNSAMPLES)] * 2
        network.attend(torch.zeros(2, 3, *THUMBNAIL), grids)


def _count_bytes_read() -> int:
    """Number of bytes that this process has read through the kernel."""
    first_line = Path("/proc/self/io").read_text().splitlines()[0]
    return int(first_line.split()[1])


def measure(path: str, size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each way, medians of all repeats; the ways take turns."""
    ways = [way for way in WAYS if size <= args.all or not way.all_patches]
    runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    for _ in range(args.repeats):
        for way in ways:
            runs[way.name].append(in_own_process(predict, way, path, args))

    first = np.array([run["CPU s"] for run in runs[ways[0].name]])
    rows = []
    for name, repeats in runs.items():
        row: dict[str, Any] = {"way": name, "size": size}
        for key in repeats[0]:
            median = float(np.median([run[key] for run in repeats]))
            row[key] = int(median) if key in COUNTS else median
        processor = np.array([run["CPU s"] for run in repeats])
        row["of ours"] = float(np.median(processor / first))
        rows.append(row)
    return rows


def run(args: argparse.Namespace) -> None:
    """Make the slides, predict each in every way, print a table and write the report."""
    preset = QUICK if args.quick else FULL
    for name, value in preset.items():
        if getattr(args, name) is None:
            setattr(args, name, value)

    ensure_torchvision()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            path = str(Path(folder, f"{size}.tif"))
            make = partial(make_slide, size=size, mpp=MPP, downsamples=_choose_downsamples(size))
            in_own_process(make, path, args.slide)
            rows += measure(path, size, args)
    print(table(rows))

    settings = {
        **vars(args),
        "mpp": MPP,
        "downsamples": DOWNSAMPLES,
        "thumbnail": THUMBNAIL,
        "threads": torch.get_num_threads(),
    }
    write_report(args.output, settings, MODULES, results=rows)


def _choose_downsamples(size: int) -> list[int]:
    """Levels that halve down to at most two tiles a side."""
    downsamples = [1]
    while size // downsamples[-1] > 2 * TILE:
        downsamples.append(2 * downsamples[-1])
    return downsamples


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time predictions from slides on disk, with few patches and with all.")
    parser.add_argument("--quick", action="store_true", help=f"as if these were given: {QUICK}")
    parser.add_argument("--slide", metavar="FILE", help="image or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help=f"pixels a side (default: {FULL['sizes']})")
    parser.add_argument(
        "--all", type=int, metavar="N", help=f"pixels a side up to which all patches are read (default: {FULL['all']})"
    )
    parser.add_argument("--patches", type=int, default=5, metavar="K", help="patches of ours (default: %(default)s)")
    name = "mobilenetv3_small_050"
    parser.add_argument("--backbone", default=name, metavar="NAME", help="f, a timm name (default: %(default)s)")
    parser.add_argument("--thumbnail-backbone", default=name, metavar="NAME", help="h (default: %(default)s)")
    parser.add_argument("--repeats", type=int, metavar="N", help=f"number of repeats (default: {FULL['repeats']})")
    parser.add_argument("--output", default="end_to_end.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
