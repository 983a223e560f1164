# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From a slide on disk to its prediction, or a training step: ours with a few patches, with all, the usual pipeline.

    python benchmarks/end_to_end.py [--quick] [--backbone inception_v3] [--output end_to_end.json]

The usual pipeline reads the grid of the finest magnification by OpenSlide, encodes every patch and lets attention MIL
decide. All have the same patch encoder, with random weights, and run in a process of their own each time; libraries,
networks and a first patch are loaded before the clock starts. Slides are JPEG pyramids whose levels halve down to 512
pixels a side; repeated tiles share their bytes. Ours is asked for slides of every size, the others up to ``--all``
pixels a side. "CPU s" is the processor's time in all threads, "of ours" that time over the first row's of its size,
"tiles" how many different ones lie under what was read, "decoded" how many where each patch decodes its own, "read MB"
what the process read, from the disk or its cache, and "memory MB" its peak above that of the start. Medians.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import in_own_process, now, peak_memory, table, write_report
from decoded import Decoded
from slide import TILE, tissue, write_slide

from monai_jsma.data import PyramidBatch, SlideError
from monai_jsma.networks import AllPatches, AttentionMIL, JSMANet, PatchEncoder, Pathwise
from monai_jsma.networks._torchvision import ensure_torchvision
from monai_jsma.transforms import LoadPyramid, PyramidThumbnail

MODULES = ("monai_jsma", "cucim", "openslide", "tifffile", "imagecodecs", "monai", "timm", "numpy", "torch")
MPP, DOWNSAMPLES = 0.25, (4, 2, 1)  # of level 0; of the magnifications
THUMBNAIL = (224, 224)
FULL: dict[str, Any] = {"sizes": (2048, 8192, 32_768, 100_000), "all": 8192, "repeats": 3}
QUICK: dict[str, Any] = {"sizes": (2048, 8192), "all": 2048, "repeats": 1}


class Way(NamedTuple):
    """A way to a prediction: which patches, how many of them (None: ``--patches``), and by which library."""

    name: str
    patch_size: int
    aligned: bool
    patches: str | None = None
    reader: str = "cucim"
    usual: bool = False
    training: bool = False


WAYS = (
    Way("ours, aligned", 256, True),
    Way("ours, 299", 299, False),
    Way("ours, a training step", 256, True, training=True),
    Way("all, aligned", 256, True, "all"),
    Way("all, 299", 299, False, "all"),
    Way("usual pipeline", 256, True, "all", "openslide", usual=True),
)


def predict(way: Way, path: str, args: argparse.Namespace) -> dict[str, float]:
    """One slide, from its path to its prediction, or to the gradient of it."""
    magnifications = [MPP * down for down in (DOWNSAMPLES[-1:] if way.usual else DOWNSAMPLES)]
    network = _network(way, magnifications, args).train(way.training)
    with torch.inference_mode(not way.training):
        _warm_up(network, way.patch_size)
        memory, disk, start = peak_memory(), _bytes_read(), now()
        pyramid = LoadPyramid(magnifications, way.patch_size, way.reader, aligned=way.aligned)(path)
        decoded = Decoded(pyramid)
        image = torch.zeros(1) if way.usual else PyramidThumbnail(THUMBNAIL)(pyramid).as_tensor()[None]
        before = len(decoded.windows)
        sampler = AllPatches() if way.patches == "all" else None
        logits = network(image, PyramidBatch([pyramid]), sampler=sampler)
        if way.training:
            torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.long)).backward()
        clock, processor = (now() - start).tolist()
    read = {"read MB": (_bytes_read() - disk) / 1e6, "memory MB": peak_memory() - memory}
    tiles = decoded.tiles()
    counted = {"patches": len(decoded.windows) - before, "tiles": len(set(tiles)), "decoded": len(tiles)}
    return {**counted, "s": clock, "CPU s": processor, **read}


def _network(way: Way, magnifications: Sequence[float], args: argparse.Namespace) -> JSMANet | AttentionMIL:
    torch.manual_seed(0)
    if way.usual:
        encoder = PatchEncoder(args.backbone, chunk_size=16)
        return AttentionMIL(2, magnifications, weights=None, patch_encoder=encoder)
    return JSMANet(
        2,
        magnifications,
        weights=None,
        sampler=Pathwise(args.patches),
        thumbnail_encoder=args.thumbnail_backbone,
        patch_encoder=PatchEncoder(args.backbone, chunk_size=16),
    )


def _warm_up(network: JSMANet | AttentionMIL, patch_size: int) -> None:
    network.patch_encoder(torch.zeros(2, 3, patch_size, patch_size))  # two: batch statistics need them in training
    if isinstance(network, JSMANet):
        network.attend(torch.zeros(2, 3, *THUMBNAIL), [((1, 1),) * len(DOWNSAMPLES)] * 2)


def _bytes_read() -> int:
    """What this process has read through the kernel."""
    return int(Path("/proc/self/io").read_text().split()[1])


def measure(path: str, size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a way, medians of all repeats; the ways take turns."""
    ways = [way for way in WAYS if way.patches is None or size <= args.all]
    runs = [[in_own_process(predict, way, path, args) for way in ways] for _ in range(args.repeats)]
    rows = []
    for i, way in enumerate(ways):
        median = {key: float(np.median([run[i][key] for run in runs])) for key in runs[0][i]}
        counts = {key: int(median.pop(key)) for key in ("patches", "tiles", "decoded")}
        of_ours = float(np.median([run[i]["CPU s"] / run[0]["CPU s"] for run in runs]))
        rows.append({"way": way.name, "size": size, **counts, **median, "of ours": of_ours})
    return rows


def run(args: argparse.Namespace) -> None:
    """Make the slides, predict each in every way, print a table and write the report."""
    ensure_torchvision()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            path = str(Path(folder, f"{size}.tif"))
            in_own_process(_make, path, args.slide, size)
            rows += measure(path, size, args)
    print(table(rows))
    settings = {**vars(args), "mpp": MPP, "downsamples": DOWNSAMPLES, "thumbnail": THUMBNAIL}
    write_report(args.output, settings | {"threads": torch.get_num_threads()}, MODULES, results=rows)
    print(f"\n{args.output}")


def _make(path: str, source: str | None, size: int) -> None:
    levels = [2**i for i in range(size.bit_length()) if i == 0 or size >> i - 1 > 2 * TILE]
    write_slide(path, tissue(source), size, MPP, levels, "jpeg", once=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time predictions from slides on disk, of few patches and of all.")
    parser.add_argument("--quick", action="store_true", help=f"as if these were given: {QUICK}")
    parser.add_argument("--slide", metavar="FILE", help="picture or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help=f"pixels a side (default: {FULL['sizes']})")
    parser.add_argument(
        "--all", type=int, metavar="N", help=f"pixels a side up to which all are read (default: {FULL['all']})"
    )
    parser.add_argument("--patches", type=int, default=5, metavar="K", help="of ours (default: %(default)s)")
    name = "mobilenetv3_small_050"
    parser.add_argument("--backbone", default=name, metavar="NAME", help="of patches, by timm (default: %(default)s)")
    parser.add_argument("--thumbnail-backbone", default=name, metavar="NAME", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, metavar="N", help=f"the median counts (default: {FULL['repeats']})")
    parser.add_argument("--output", default="end_to_end.json", metavar="FILE", help="report (default: %(default)s)")
    args = parser.parse_args()
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    try:
        run(args)
    except (FileNotFoundError, SlideError, ValueError) as error:
        sys.exit(f"end_to_end.py: error: {error}")


if __name__ == "__main__":
    main()
