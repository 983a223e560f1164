# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Does the zoom find the few regions of a slide that show its class? Whole slides with a known answer.

    python experiments/zoom_slides.py REGION_WEIGHTS [--variants zoom new_root flat] [--seeds 0,1,2,3,4] [--out DIR]

Slides of 16 x 16 regions of 256 pixels, half of them tissue. Of the tissue 2, 5, 10, 25 or 50 % is informative, and as
many regions are distractors, which no thumbnail tells from them (``monai_jsma.datalists.synthetic_slides``). The
encoders are given and frozen: ``REGION_WEIGHTS`` is the ``model.pt`` of the demo or of ``known_answer.py``, which was
trained on regions, all of which were informative; its h sees the slides too. What is learned from the labels of slides
is which regions to look at, and what those without textures mean: nothing. The map of a slide is standardized
(``slide_norm``): most of it is glass and plain tissue, and a linear attention hardly tells the rest from these.

- ``zoom``: ``zoom.json``; training slides have all of these shares in turn, the lower ones more often;
- ``new_root``: the same, but all training slides have 2 %;
- ``flat``: one attention over all cells from the slide's thumbnail, with the same h, tissue, slides, steps and patches,
  places of the map for each region, and the given patch encoder and classifier.

Each share is tested by itself: from 4 and 16 random patches, drawn as ``zoom.json`` does, and from as many independent
paths; and by the zoom from all patches, which a slide of a few different regions, repeated, makes exact. A finished
run is not repeated; ``DIR/tables.md`` has all.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch import Tensor

from monai_jsma._io import write_whole
from monai_jsma.cli.bundles import parse_seeds, read_config
from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.datalists.synthetic import CLASS_NAMES, GEOMETRY
from monai_jsma.datalists.synthetic_slides import (
    KINDS,
    SlideSettings,
    SyntheticSlide,
    make_slide,
    rearrange_slide,
)
from monai_jsma.datalists.tissue import find_tissue
from monai_jsma.geometry import Box
from monai_jsma.networks import Confident, JSMANet, Pathwise, ZoomNet
from monai_jsma.slides.base import ArrayReader
from monai_jsma.slides.resample import area_resample

BUNDLE = Path(__file__).parents[1] / "bundles" / "bach"
SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)  # of the tissue that is informative
SIDE = 16  # regions along a slide
REGION = GEOMETRY.size[0]  # pixels along a region
PLACE = 16  # pixels of the slide's thumbnail along a region
REDUCTIONS = (1, 2, 4, 16)  # of the levels of a slide in memory
PATCHES = (4, 16)
INFORMATIVE = KINDS.index("informative")
TINTED = KINDS.index("distractor")

THUMBNAIL = [PLACE * SIDE, PLACE * SIDE]
COMMON = {  # values that replace those of the bundle and of demo.json
    "thumbnail_size": THUMBNAIL,
    "freeze_thumbnail_backbone": True,
    "freeze_patch_backbone": True,
    "batch_size": 8,
    "alpha": 0.001,
    "lr": 0.05,  # of layers on top of frozen encoders
    "orientation_prob": 0.0,  # what frozen encoders give is kept
    "val_interval": 1000,
    "max_pictures": 0,
    "data_list_file_path": "none",  # the slides are in memory
    "dataset_dir": "none",
}
LR_SLIDE = 0.2  # of the attention over the slide
ZOOM = {
    "zoom_region_size": REGION,
    "slide_norm": "standardized",
    "region_thumbnail_size": [32, 32],
    "region_epochs": 0,
    "zoom_epochs": 0,
}
TRAINING_SHARES = (0.02, 0.02, 0.02, 0.05, 0.05, 0.1, 0.25, 0.5)  # in turn
LONG = {"epochs": 11, "warmup_epochs": 4, "warmup_patches": 64, "num_patches": 16}
SHORT = {**LONG, "epochs": 4}
SCHEDULES = {"zoom": LONG, "new_root": SHORT, "flat": LONG}
FLAT = {"thumbnail_norm": "standardized"}
OVERLAYS = {"zoom": ["demo", "zoom"], "new_root": ["demo", "zoom"], "flat": ["demo"]}
DRAWS = 4  # of a slide, from each of which it is classified
SAMPLERS = {"": "systematic", "independent ": "with_replacement"}


# ----------------------------------------------------------------------------------------------------------- slides


class RegionReader(ArrayReader):
    """A synthetic slide in memory, of which each different region is held once.

    Args:
        slide: the slide.
        path: its name, for messages.
    """

    def __init__(self, slide: SyntheticSlide, path: str) -> None:
        super().__init__(slide.pictures[0], path)
        self.numbers = slide.numbers
        self.pictures = [_average_all(slide.pictures, reduction) for reduction in REDUCTIONS]
        sizes = [len(slide.numbers) * REGION // reduction for reduction in REDUCTIONS]
        self.level_sizes = tuple((size, size) for size in sizes)
        self.exact = (True,) * len(REDUCTIONS)

    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        pictures = self.pictures[level]
        side = pictures.shape[1]
        top, left = location
        height, width = size
        first_row = top // side
        first_col = left // side
        end_row = (top + height - 1) // side + 1
        end_col = (left + width - 1) // side + 1
        shown = pictures[self.numbers[first_row:end_row, first_col:end_col]]
        rows, cols = shown.shape[:2]
        joined = shown.swapaxes(1, 2).reshape(rows * side, cols * side, 3)
        top -= first_row * side
        left -= first_col * side
        return joined[top : top + height, left : left + width]


def _average_all(pictures: np.ndarray, reduction: int) -> np.ndarray:
    size = REGION // reduction
    whole = Box(0, 0, REGION, REGION)
    return np.stack([area_resample(picture, whole, (size, size)) for picture in pictures])


@dataclass(frozen=True, eq=False)
class OpenSlide:
    """A slide and what is known of it.

    Args:
        slide: the slide.
        pyramid: the same, as a network reads it; where its tissue lies is known.
        share: share of the tissue that is informative.
    """

    slide: SyntheticSlide
    pyramid: Pyramid
    share: float

    @property
    def item(self) -> dict[str, Any]:
        """The item of a datalist."""
        return {"image": self.pyramid, "label": self.slide.label}


def open_in_memory(
    slide: SyntheticSlide, share: float, *, reader: RegionReader | None = None, name: str = ""
) -> OpenSlide:
    """Open a slide that is no file.

    Args:
        slide: the slide.
        share: share of its tissue that is informative.
        reader: reader of a slide of the same pictures, whose averages are used again.
        name: what tells it from every other slide: then features of it are kept.
    """
    own = RegionReader(slide, "in memory") if reader is None else _copy_reader(reader, slide)
    pyramid = Pyramid(
        own,
        mpp=GEOMETRY.mpp,
        magnifications=GEOMETRY.magnifications,
        patch_size=GEOMETRY.patch_size,
        path="in memory",
        identity=name,
    )
    tissue = find_tissue(pyramid)
    return OpenSlide(slide, pyramid.with_tissue(tissue), share)


def _copy_reader(reader: RegionReader, slide: SyntheticSlide) -> RegionReader:
    copied = object.__new__(RegionReader)
    copied.__dict__.update(reader.__dict__)
    copied.numbers = slide.numbers
    return copied


def make_settings(share: float, args: argparse.Namespace) -> SlideSettings:
    """What slides of a share are made of."""
    return SlideSettings(side=SIDE, informative=share, variants=args.pictures)


def make_training_slides(seed: int, args: argparse.Namespace, shares: Sequence[float]) -> list[OpenSlide]:
    """Slides of the shares in turn, as many of each class."""
    slides = []
    for number in range(args.train):
        share = shares[number // len(CLASS_NAMES) % len(shares)]
        of_slide = (seed, 0, number)
        slide = make_slide(number % len(CLASS_NAMES), of_slide, make_settings(share, args))
        slides.append(open_in_memory(slide, share, name=f"{of_slide} {share}"))
    return slides


def make_test_slides(seed: int, args: argparse.Namespace) -> list[list[OpenSlide]]:
    """Slides of each share, for each set of pictures."""
    sets = []
    for number in range(args.test):
        of_slide = (seed, 2, number)
        first = make_slide(number % len(CLASS_NAMES), of_slide, make_settings(SHARES[0], args))
        reader = RegionReader(first, "in memory")
        same = []
        for share in SHARES:
            slide = rearrange_slide(first, of_slide, make_settings(share, args))
            same.append(open_in_memory(slide, share, reader=reader, name=f"{of_slide} {share}"))
        sets.append(same)
    return sets


# --------------------------------------------------------------------------------------------------------- training


def make_config(variant: str, seed: int, args: argparse.Namespace) -> ConfigParser:
    """The bundle's configuration of a variant, without its slides."""
    folder = args.out / variant / f"seed{seed}"
    folders = {"ckpt_dir": folder / "models", "log_dir": folder / "runs", "output_dir": folder / "eval"}
    values = {**COMMON, **SCHEDULES[variant], **folders, "seed": seed, "feature_cache": folder / "features"}
    is_zoom = variant != "flat"
    if is_zoom:
        values |= {**ZOOM, "region_weights": args.region_weights}
    else:
        values |= FLAT
    config = read_config(BUNDLE, OVERLAYS[variant], values)
    config["class_names"] = list(CLASS_NAMES)
    set_learning_rates(config, "stages." if is_zoom else "attention.")
    return config


def set_learning_rates(config: ConfigParser, part: str) -> None:
    """Give a part of the network a learning rate of its own, and let all of them fall to 0 as half a cosine.

    Args:
        config: configuration of the bundle.
        part: what the names of the parameters of the attention over the slide begin with.
    """
    named = "in @network.named_parameters() if"
    slide = f"[parameter for name, parameter {named} name.startswith('{part}')]"
    others = f"[parameter for name, parameter {named} not name.startswith('{part}')]"
    config["optimizer#params"] = f"$[{{'params': {slide}, 'lr': {LR_SLIDE}}}, {{'params': {others}}}]"
    config["lr_scheduler"] = {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "optimizer": "@optimizer",
        "T_max": "@epochs",
    }
    by_epoch = {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False}
    config["train#handlers"] = [*config["train#handlers"], by_epoch]
    config["validate#handlers"] = config["validate#handlers"][1:]  # without the schedule by accuracy


def train(variant: str, seed: int, args: argparse.Namespace) -> tuple[torch.nn.Module, dict[str, float]]:
    """Train a variant by the bundle's configuration; returns the network and what it cost."""
    config = make_config(variant, seed, args)
    shares = SHARES[:1] if variant == "new_root" else TRAINING_SHARES
    slides = make_training_slides(seed, args, shares)
    config["train#deterministic_transforms"] = []  # the slides are open, and their tissue is known
    config["train#data"] = [slide.item for slide in slides]
    config["validate#data"] = config["train#data"][:2]

    config.get_parsed_content("initialize")
    network = config.get_parsed_content("network_def")
    give_parts(network, args.region_weights)
    start = time.process_time()
    config.get_parsed_content("run")
    seconds = time.process_time() - start
    steps = config.get_parsed_content("train#trainer").state.iteration
    set_determinism(None)
    return network.eval(), {"train s": seconds, "steps": steps}


def give_parts(network: torch.nn.Module, file: Path) -> None:
    """Let a network begin with parts of a model of regions.

    The encoder of slides is its h, by which a tint looks alike on any thumbnail. The zoom gets its region network by
    the configuration; flat attention gets its patch encoder and its classifier here.
    """
    weights = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(network, ZoomNet):
        parts = {"thumbnail_encoder": network.stages[0].encoder}
    else:
        parts = {name: network.get_submodule(name) for name in ("thumbnail_encoder", "patch_encoder", "classifier")}
    for name, part in parts.items():
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        part.load_state_dict(own)  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------- measures


def measure(network: torch.nn.Module, sets: Sequence[Sequence[OpenSlide]]) -> dict[str, dict[str, float]]:
    """Measures of each share, the mean over its slides."""
    rows: dict[str, list[dict[str, float]]] = {}
    torch.manual_seed(0)
    with torch.inference_mode():
        for same in sets:
            regions = SeenRegions(network, same[0]) if isinstance(network, ZoomNet) else None
            for slide in same:
                row = measure_slide(network, slide, regions)
                rows.setdefault(f"{slide.share:g}", []).append(row)

    means = {}
    for share, same_share in rows.items():
        means[share] = {name: float(np.nanmean([row[name] for row in same_share])) for name in same_share[0]}
    return means


def measure_slide(network: torch.nn.Module, slide: OpenSlide, regions: SeenRegions | None) -> dict[str, float]:
    """Measures of one slide; those of stopping are NaN where it is not certified."""
    batch = PyramidBatch([slide.pyramid])
    thumbnails = batch.thumbnails(network.thumbnail_size)  # type: ignore[arg-type, operator]
    label = slide.slide.label
    row = {}
    for (prefix, estimator), k in product(SAMPLERS.items(), PATCHES):
        sampler = Pathwise(k, estimator=estimator)
        right = []
        for _ in range(DRAWS):
            output = network(thumbnails, batch, return_attention=True, sampler=sampler)
            right.append(float(output["logits"].argmax() == label))
        row[f"{prefix}accuracy {k}"] = float(np.mean(right))
        if "num_regions" in output:
            row[f"{prefix}regions {k}"] = float(output["num_regions"][0])

    attention = output["attention"][0]
    of_regions = attention if regions is not None else sum_over_regions(attention)
    kinds = torch.from_numpy(slide.slide.kinds.ravel())
    row["mass informative"] = float(of_regions[kinds == INFORMATIVE].sum())
    row["mass tinted"] = float(of_regions[kinds >= TINTED].sum())
    if regions is None:
        return row

    logits, true_mass = regions.read_all(slide, of_regions)
    prediction = int(logits.argmax())
    row["accuracy all"] = float(prediction == label)
    row["mass true cells"] = true_mass
    output = network(thumbnails, batch, return_attention=True, sampler=Confident(0.99, chunk=4))
    certified = bool(output["certified"][0])
    row["certified"] = float(certified)
    row["agreement"] = float("nan")
    if certified:
        row["agreement"] = float(int(output["logits"].argmax()) == prediction)
    row["patches until sure"] = float((output["weights"] > 0).sum())
    row["regions until sure"] = float(output["num_regions"][0])
    return row


def sum_over_regions(attention: Tensor) -> Tensor:
    """Attention of each region from that of all cells of a slide, whose cells lie side by side in its regions."""
    total = attention.new_zeros(SIDE, SIDE)
    start = 0
    for rows, cols in GEOMETRY.grids:
        level = attention[start : start + SIDE * rows * SIDE * cols]
        total += level.view(SIDE, rows, SIDE, cols).sum(dim=(1, 3))
        start += level.numel()
    return total.flatten()


class SeenRegions:
    """The attention inside the different regions of a slide, and the features of all of their cells.

    Args:
        network: the network.
        slide: a slide that shows them.
    """

    def __init__(self, network: ZoomNet, slide: OpenSlide) -> None:
        self.network = network
        pictures = slide.slide.pictures
        as_slide = SyntheticSlide(
            label=slide.slide.label,
            kinds=np.zeros((1, len(pictures)), int),
            numbers=np.arange(len(pictures))[None],
            pictures=pictures,
        )
        reader = _copy_reader(slide.pyramid.reader, as_slide)  # type: ignore[arg-type]
        sides = [REGION // reduction for reduction in REDUCTIONS]
        reader.level_sizes = tuple((side, len(pictures) * side) for side in sides)
        row = Pyramid(reader, mpp=GEOMETRY.mpp, magnifications=GEOMETRY.magnifications, patch_size=GEOMETRY.patch_size)
        numbers = list(range(len(pictures)))
        regions = PyramidBatch([row]).regions([0] * len(numbers), numbers, REGION)
        region_network: JSMANet = network.region_network
        thumbnails = regions.thumbnails(network.find_thumbnail_size(1))
        self.attention = region_network.attend(thumbnails, regions.grids).exp()  # (pictures, cells)

        num_cells = self.attention.shape[1]
        every = torch.cartesian_prod(torch.arange(len(numbers)), torch.arange(num_cells))
        patches = regions.read(every[:, 0], every[:, 1])
        features = torch.cat([region_network.patch_encoder(chunk) for chunk in patches.split(256)])
        features = features.view(len(numbers), num_cells, -1)
        self.bags = (self.attention[..., None] * features).sum(dim=1)  # (pictures, features)
        self.true_mass = self._find_true_mass(pictures)

    def _find_true_mass(self, pictures: np.ndarray) -> Tensor:
        """Attention of each picture on the cell with textures, 0 where it has none ``(pictures,)``."""
        variants = (len(pictures) - 1) // (len(KINDS) - 1)
        mass = torch.zeros(len(pictures))
        for variant in range(variants):
            informative = 1 + (INFORMATIVE - 1) * variants + variant
            without = pictures[informative - variants]  # the distractor that it was made of
            changed = (pictures[informative] != without).any(axis=2)
            row, col = np.argwhere(changed)[0]
            cell = _find_cell(int(row), int(col))
            mass[informative] = self.attention[informative, cell]
        return mass

    def read_all(self, slide: OpenSlide, of_regions: Tensor) -> tuple[Tensor, float]:
        """Logits of all patches of a slide of these regions, and its attention on cells with textures.

        Args:
            slide: the slide.
            of_regions: attention of its regions.
        """
        numbers = torch.from_numpy(slide.slide.numbers.ravel())
        of_pictures = of_regions.new_zeros(len(self.bags)).index_add(0, numbers, of_regions)
        logits = self.network.region_network.classifier((of_pictures @ self.bags)[None])
        return logits[0], float(of_pictures @ self.true_mass)


def _find_cell(row: int, col: int) -> int:
    """The cell of the true magnification under a pixel of a region."""
    level = SlideSettings().level
    for cell in range(GEOMETRY.offsets[level], GEOMETRY.offsets[level + 1]):
        box = GEOMETRY.cell_box(cell)
        if box.row <= row < box.row + box.height and box.col <= col < box.col + box.width:
            return cell
    raise ValueError(f"no cell is under row {row}, column {col}.")


# ----------------------------------------------------------------------------------------------------------- tables


def make_tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: for each variant and share the means over the seeds, and the worst seed of each accuracy."""
    lines = []
    for variant in OVERLAYS:
        same = [run for run in runs if run["variant"] == variant]
        if not same:
            continue
        names = list(same[0]["measures"][f"{SHARES[0]:g}"])
        lines += [f"{variant}, {len(same)} seeds", "", "| share | " + " | ".join(names) + " |"]
        lines.append("|---" * (len(names) + 1) + "|")
        for share in SHARES:
            cells = [_format([run["measures"][f"{share:g}"][name] for run in same], name) for name in names]
            lines.append(f"| {share:.0%} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines) + "\n"


def _format(values: Sequence[float], name: str) -> str:
    mean = float(np.mean(values))
    if "accuracy" not in name or len(values) == 1:
        return f"{mean:.3g}"
    return f"{mean:.3f} ({min(values):.3f})"


def run(args: argparse.Namespace) -> None:
    """Finish all runs and write the tables of all that are there."""
    torch.set_num_threads(1)
    args.out = args.out.resolve()
    args.region_weights = args.region_weights.resolve()
    for seed, variant in product(parse_seeds(args.seeds), args.variants):
        file = args.out / variant / f"seed{seed}" / "measures.json"
        if not file.exists():
            network, cost = train(variant, seed, args)
            measures = measure(network, make_test_slides(seed, args))
            torch.save(network.state_dict(), file.parent / "trained.pt")
            shutil.rmtree(file.parent / "features")  # as large as all thumbnails
            content = {"variant": variant, "seed": seed, **cost, "measures": measures}
            write_whole(file, json.dumps(content, indent=1) + "\n")
        print(f"{variant}, seed {seed}: done", flush=True)
    runs = [json.loads(file.read_text()) for file in sorted(args.out.glob("*/seed*/measures.json"))]
    tables = make_tables(runs)
    write_whole(args.out / "tables.md", tables)
    print(f"\n{tables}\n{args.out / 'tables.md'}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train zoom and flat attention on whole slides with a known answer.")
    add = parser.add_argument
    add("region_weights", type=Path, metavar="REGION_WEIGHTS", help="model.pt of the demo or of known_answer.py")
    add("--variants", nargs="+", choices=OVERLAYS, default=list(OVERLAYS), metavar="NAME", help="default: all")
    add("--seeds", default="0,1,2,3,4", metavar="A,B,C", help="default: %(default)s")
    add("--train", type=int, default=240, metavar="N", help="training slides (default: %(default)s)")
    add("--test", type=int, default=16, metavar="N", help="test slides of each share (default: %(default)s)")
    add("--pictures", type=int, default=2, metavar="N", help="different regions of each kind in a slide (default: 2)")
    add("--out", type=Path, default=Path("zoomed"), metavar="DIR", help="folder for all (default: %(default)s)")
    logging.disable(logging.INFO)  # MONAI logs every epoch
    try:
        run(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"zoom_slides.py: error: {error}")


if __name__ == "__main__":
    main()
