# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A whole slide from disk to its label: ours with a few paths, and the usual pipeline with all tissue patches.

    python benchmarks/slides.py [--sizes 16384 32768 100096] [--backbone mobilenetv3_small_100] [--output slides.json]

Slides are synthetic, 30 % of each is tissue. The usual pipeline finds the tissue, reads all its patches of 256 pixels
at the finest magnification, encodes them and classifies by attention MIL. Ours
(:class:`~monai_jsma.networks.ZoomNet`) finds the tissue too, draws regions from the slide's thumbnail and patches from
those of the regions. Both have the same patch encoder f and the same reader, with random weights, and run in a process
of their own each time; libraries, networks and a first patch are loaded before the clock starts.

How many paths a trained network needs depends on how clear its answer is. So fixed numbers of paths are timed, and
stopping at a confidence of 0.99 as it is with random weights, which say little: it is the least favorable case, at most
512 paths. "s" is the time by the clock, "CPU s" that of the processor in all threads, "of usual" how many times less of
it than the usual pipeline, "tiles" the number of different tiles under what was read, "read MB" what the process read,
from the disk or its cache, and "memory MB" its peak above that at the start. All figures are medians.

All patches of a large slide take the usual pipeline long: with ``--usual-part 10`` every tenth is read and encoded, and
what they cost, but not opening the slide and finding its tissue, is multiplied by ten.

The second table is arithmetic: multiply-adds for other patch encoders, with the numbers of the first.
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
from common import in_own_process, now, peak_memory, positive, run_program, table, write_report
from decoded import Decoded
from torch import Tensor
from workload import multiply_adds

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.datalists.synthetic_slides import SlideSettings, make_slide, write_slide
from monai_jsma.networks import (
    AttentionMIL,
    Confident,
    Draws,
    JSMANet,
    LeaveOneOut,
    PatchEncoder,
    Sampler,
    ZoomNet,
    ZoomStage,
    build_backbone,
)
from monai_jsma.networks._torchvision import ensure_torchvision
from monai_jsma.transforms import FindTissue, LoadPyramid, PyramidThumbnail

MODULES = ("monai_jsma", "tifffile", "imagecodecs", "monai", "timm", "numpy", "torch")
MAGNIFICATIONS = (2.0, 1.0, 0.5)  # um per pixel
PATCH = 256
TISSUE = 0.3
PLACE = 32  # pixels of the slide's thumbnail for each region: one place of an encoder of stride 32
REGION_THUMBNAIL = (224, 224)
ENCODERS = ("mobilenetv3_small_100", "inception_v3", "vit_large_patch16_224")  # of the arithmetic


class Way(NamedTuple):
    """A way to a label: the usual one, or ours with a sampler."""

    name: str
    sampler: Sampler | None = None


WAYS = (
    Way("usual pipeline"),
    Way("ours, 16 paths", Draws(LeaveOneOut(16), 1)),
    Way("ours, 64 paths", Draws(LeaveOneOut(64), 1)),
    Way("ours, confidence 0.99", Confident(0.99, chunk=16)),
)


class TissuePatches:
    """The patches of a slide that are mostly tissue, as a row of cells.

    Args:
        pyramid: the slide at one magnification, whose patches lie side by side.
        part: N to take every N-th of them.
    """

    def __init__(self, pyramid: Pyramid, part: int = 1) -> None:
        shares = pyramid.tissue_shares(PATCH)
        if len(shares) != pyramid.geometry.num_cells:
            raise ValueError(
                f"{pyramid.path}: {len(shares)} shares of tissue for {pyramid.geometry.num_cells} patches."
            )
        self.cells = torch.from_numpy(np.flatnonzero(shares > 0.5)[::part])
        self.pyramids = PyramidBatch([pyramid])

    @property
    def grids(self) -> Sequence[tuple[tuple[int, int], ...]]:
        """One row of all patches."""
        return [((1, len(self.cells)),)]

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        """Patches of these cells: ``(n, 3, patch, patch)``."""
        return self.pyramids.read(pictures, self.cells[cells])


def build_usual(args: argparse.Namespace) -> AttentionMIL:
    """The usual pipeline's network."""
    encoder = PatchEncoder(args.backbone, feature_norm="l2")
    network = AttentionMIL(2, MAGNIFICATIONS[-1:], weights=None, patch_encoder=encoder, patch_size=PATCH, aligned=True)
    return network.eval()


def build_ours(args: argparse.Namespace, size: int) -> ZoomNet:
    """Our network, for slides of this size."""
    region_network = JSMANet(
        2,
        MAGNIFICATIONS,
        weights=None,
        thumbnail_encoder=args.thumbnail_backbone,
        patch_encoder=PatchEncoder(args.backbone, feature_norm="l2"),
        thumbnail_size=REGION_THUMBNAIL,
        patch_size=PATCH,
        aligned=True,
        normalization="softmax",
    )
    stage = ZoomStage(args.thumbnail_backbone, args.region_size, _find_thumbnail_size(args, size))
    return ZoomNet(region_network, [stage]).eval()


def _find_thumbnail_size(args: argparse.Namespace, size: int) -> tuple[int, int]:
    """Size of a slide's thumbnail that gives each region a place."""
    regions = -(-size // args.region_size)
    side = max(PLACE * regions, REGION_THUMBNAIL[0])
    return side, side


def label_slide(way: Way, path: str, args: argparse.Namespace, *, size: int) -> dict[str, Any]:
    """Measure one slide, from its path to its label."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    is_usual = way.sampler is None
    network: Any = build_usual(args) if is_usual else build_ours(args, size)
    magnifications = MAGNIFICATIONS[-1:] if is_usual else MAGNIFICATIONS
    load = LoadPyramid(magnifications, PATCH, aligned=True)

    with torch.inference_mode():
        encoder = network.patch_encoder if is_usual else network.region_network.patch_encoder
        encoder(torch.zeros(1, 3, PATCH, PATCH))
        memory = peak_memory()
        disk = _count_bytes_read()
        start = now()

        pyramid = load(path)
        decoded = Decoded(pyramid)
        pyramid = FindTissue()(pyramid)
        part = 1
        before = now()
        if is_usual:
            part = args.usual_part
            source = TissuePatches(pyramid, part)
            output = network(torch.zeros(1), source, return_attention=True)
        else:
            thumbnail = PyramidThumbnail(network.thumbnail_size)(pyramid).as_tensor()[None]
            slide = PyramidBatch([pyramid])
            output = network(thumbnail, slide, return_attention=True, sampler=way.sampler)
        output["logits"].argmax()
        patches = now() - before
        clock, processor = (before - start + part * patches).tolist()

    confidence = output.get("confidence")
    return {
        "regions": 0 if is_usual else int(output["num_regions"][0]),
        "patches": part * _count_patches(output),
        "tiles": part * len(set(decoded.tiles())),
        "s": clock,
        "CPU s": processor,
        "read MB": part * (_count_bytes_read() - disk) / 1e6,
        "memory MB": peak_memory() - memory,
        "confidence": None if confidence is None else float(confidence[0]),
    }


def _count_patches(output: dict[str, Tensor]) -> int:
    """Number of different patches that were read of the only slide of a batch."""
    is_read = output["weights"][0] > 0
    places = output["cells"][0][is_read][:, None]
    if "regions" in output:
        places = torch.cat((output["regions"][0][is_read], places), dim=1)
    return len(torch.unique(places, dim=0))


def _count_bytes_read() -> int:
    """Bytes that this process has read so far, from the disk or its cache."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise ValueError("/proc/self/io does not count what was read.")


def measure(path: str, size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The medians of all ways for one slide; the ways take turns."""
    runs: dict[str, list[dict[str, Any]]] = {way.name: [] for way in WAYS}
    for repeat in range(args.repeats):
        for way in WAYS:
            is_usual = way.sampler is None
            if is_usual and repeat >= args.usual_repeats:
                continue
            runs[way.name].append(in_own_process(partial(label_slide, size=size), way, path, args))

    usual = _find_median(runs[WAYS[0].name], "CPU s")
    rows = []
    for name, repeats in runs.items():
        row: dict[str, Any] = {"pixels": size, "way": name}
        for key, value in repeats[0].items():
            row[key] = value
            if isinstance(value, float):
                row[key] = _find_median(repeats, key)
        row["of usual"] = usual / row["CPU s"]
        rows.append(row)
    return rows


def _find_median(repeats: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.median([run[key] for run in repeats]))


def count_work(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """GMAC of each way with other patch encoders, from the numbers of regions and patches that were measured."""
    of_region = _count_of_encoder(args.thumbnail_backbone, REGION_THUMBNAIL)
    work = []
    for row in rows:
        thumbnails = 0.0
        if row["regions"]:
            of_slide = _count_of_encoder(args.thumbnail_backbone, _find_thumbnail_size(args, row["pixels"]))
            thumbnails = of_slide + row["regions"] * of_region
        counted: dict[str, Any] = {"pixels": row["pixels"], "way": row["way"]}
        for name in ENCODERS:
            side = 224 if name.startswith("vit") else PATCH
            counted[f"{name} GMAC"] = thumbnails + row["patches"] * _count_of_encoder(name, (side, side))
        work.append(counted)
    return work


def _count_of_encoder(name: str, size: tuple[int, int]) -> float:
    """GMAC of an encoder for one image; nothing is computed."""
    with torch.device("meta"):
        encoder = build_backbone(name, None, pooled=True).eval()
        image = torch.empty(1, 3, *size)
    return multiply_adds(lambda: encoder(image)) / 1e9


def run(args: argparse.Namespace) -> None:
    """Make the slides, label each in every way, print the tables and write the report."""
    ensure_torchvision()
    rows: list[dict[str, Any]] = []
    disk = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            path = str(Path(folder, f"{size}.tif"))
            in_own_process(partial(make_one, path, size))
            disk[size] = Path(path).stat().st_size / 1e6
            rows += measure(path, size, args)
    work = count_work(rows, args)
    print(f"{table(rows)}\n\n{table(work)}")
    settings = {
        **vars(args),
        "magnifications": MAGNIFICATIONS,
        "patch_size": PATCH,
        "tissue": TISSUE,
        "disk_mb": disk,
    }
    write_report(args.output, settings, MODULES, results=rows, work=work)


def make_one(path: str, size: int) -> None:
    """Write a synthetic slide.

    Raises:
        ValueError: if the size is no multiple of a region of such slides.
    """
    if size % PATCH:
        raise ValueError(f"a synthetic slide has a multiple of {PATCH} pixels a side, not {size}.")
    settings = SlideSettings(side=size // PATCH, tissue=TISSUE, informative=0.05)
    write_slide(path, make_slide(1, (0,), settings))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time the labels of whole slides: a few paths, or all tissue patches.")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[16_384, 32_768, 100_096], metavar="N",
        help="pixels a side (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--region-size", type=positive, default=4096, metavar="N", help="default: %(default)s")
    name = "mobilenetv3_small_100"
    parser.add_argument("--backbone", default=name, metavar="NAME", help="f, a timm name (default: %(default)s)")
    parser.add_argument("--thumbnail-backbone", default=name, metavar="NAME", help="h (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of PyTorch (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--usual-repeats", type=positive, default=1, metavar="N",
        help="of the usual pipeline, which takes minutes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--usual-part", type=positive, default=1, metavar="N",
        help="measure every N-th patch of the usual pipeline, and multiply by N (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", default="slides.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
