# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the speed benchmarks run: a bundle's network and loss, as in the paper, on images of the size of its data set.

Pixels, weights and labels are random: none of them changes the time. Networks for one magnification and for all share
their backbones, so that only one pair of them is in memory. Images and thumbnails are in memory; patches are cut from
the images as in any training, unless ``--cropped`` leaves this out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import positive
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from monai_jsma.cli.bundles import read_config
from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.geometry import Magnification
from monai_jsma.networks import AllPatches, JSMANet, PatchEncoder, PatchSource, Pathwise, TopK, build_backbone
from monai_jsma.slides import ArrayReader

__all__ = [
    "BUNDLES",
    "MODULES",
    "PICTURES",
    "Cropped",
    "Part",
    "Workload",
    "add_arguments",
    "build_bare_backbone",
    "make_images",
    "multiply_adds",
    "read_network",
]

MODULES = ("monai_jsma", "monai", "timm", "torch")  # whose versions a report has
PICTURES = {"bach": (1536, 2048), "tcga_prad": (2000, 2000)}  # height, width at the finest magnification
BUNDLES = Path(__file__).parents[1] / "bundles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is run, and how."""
    parser.add_argument("--bundle", choices=PICTURES, default="bach", help="default: %(default)s")
    parser.add_argument("--thumbnail-backbone", metavar="NAME", help="h, a timm name (default: the bundle's)")
    parser.add_argument("--patch-backbone", metavar="NAME", help="f, a timm name (default: the bundle's)")
    parser.add_argument("--shrink", type=positive, default=1, metavar="N", help="divide all sides of all images by N")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--batch-size", type=positive, default=4, metavar="N", help="images (default: %(default)s)")
    parser.add_argument(
        "--chunk-size", type=positive, default=16, metavar="N",
        help="patches that evaluation encodes at a time (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pass-patches", type=positive, default=64, metavar="N",
        help="patches that training encodes in a pass, but at least those of one image (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--cropped", action="store_true", help="cut all patches beforehand and keep them on the device")
    parser.add_argument("--amp", action="store_true", help="mixed precision: bfloat16")
    parser.add_argument("--channels-first", action="store_true", help="weights with channels first, unlike the bundles")
    parser.add_argument("--compile", action="store_true", help="compile the backbones")
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="number of repeats (default: %(default)s)"
    )


def read_network(bundle: str, overlays: Sequence[str], shrink: int) -> tuple[dict[str, Any], Any]:
    """Read the arguments of a bundle's network, without its patch encoder, and its configuration.

    Args:
        bundle: name of the bundle.
        overlays: overlays on ``train.json``.
        shrink: divisor of thumbnail size and patch size.
    """
    config = read_config(BUNDLES / bundle, overlays)
    options = {}
    for name in config["network_def"]:
        if not name.startswith("_") and name != "patch_encoder":
            options[name] = config.get_parsed_content(f"network_def#{name}")

    options["patch_size"] //= shrink
    if "thumbnail_size" in options:
        options["thumbnail_size"] = tuple(side // shrink for side in options["thumbnail_size"])
    return options, config


def build_bare_backbone(name: str, *, pooled: bool = False) -> nn.Module:
    """Build a backbone without its wrapper, with what a network needs of a module."""
    backbone = build_backbone(name, None, pooled=pooled)
    model: Any = backbone.model
    model.num_features = backbone.num_features
    return model


def make_images(number: int, bundle: str, *, shrink: int = 1, enlarge: int = 1) -> list[np.ndarray]:
    """Random images ``(height, width, 3)`` of the size of a bundle's data set."""
    height, width = (side * enlarge // shrink for side in PICTURES[bundle])
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(number)]


class Workload:
    """A batch of images, networks to run on it, and their steps.

    Args:
        args: options of :func:`add_arguments`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.args = args
        self.device = torch.device(args.device)
        self.meter = 1 if self.device.type == "cpu" else 0  # of (clock, processor)

        self.options, config = read_network(args.bundle, ["paper"], args.shrink)
        self.magnifications = [Magnification(mpp) for mpp in self.options["magnifications"]]
        self.loss = config.get_parsed_content("loss")
        self.names = {
            "thumbnail_encoder": args.thumbnail_backbone or config.get_parsed_content("thumbnail_backbone"),
            "patch_encoder": args.patch_backbone or config.get_parsed_content("patch_backbone"),
        }
        self.backbones = {encoder: self._build_backbone(name) for encoder, name in self.names.items()}
        self.optimizer = torch.optim.Adam(nn.ModuleList(self.backbones.values()).parameters())

        self._images = make_images(args.batch_size, args.bundle, shrink=args.shrink)
        size = self.options["thumbnail_size"]
        thumbnails = [pyramid.thumbnail(size) for pyramid in self._open(self.magnifications)]
        self.thumbnails = torch.from_numpy(np.stack(thumbnails))
        self.labels = torch.zeros(args.batch_size, dtype=torch.long, device=self.device)

    def network(self, magnifications: Sequence[Magnification], **backbones: nn.Module) -> JSMANet:
        """Build the bundle's network for these magnifications, with the shared backbones or with those given."""
        encoders = backbones or self.backbones
        options = {**self.options, "magnifications": magnifications}
        options["thumbnail_encoder"] = encoders["thumbnail_encoder"]
        options["patch_encoder"] = PatchEncoder(encoders["patch_encoder"], chunk_size=self.args.chunk_size)
        network = JSMANet(**options).to(self.device)

        parts = nn.ModuleList((network.attention, network.classifier))  # all that is not shared
        self.optimizer.add_param_group({"params": parts.parameters()})
        return network

    def patches(self, magnifications: Sequence[Magnification], batch: int) -> PatchSource:
        """What the patches of the first ``batch`` images are read from."""
        pyramids = PyramidBatch(self._open(magnifications)[:batch])
        if self.args.cropped:
            return Cropped(pyramids, self.device)
        return pyramids

    def train(self, network: JSMANet, k: int | str, patches: PatchSource) -> None:
        """Run a step with ``k`` patches an image, in as many passes as memory needs; their gradients are added."""
        batch = len(patches.grids)
        num_cells = max(sum(rows * cols for rows, cols in grids) for grids in patches.grids)
        network.train()
        if k == "all":
            network.sampler = AllPatches()
            network.attention_dropout = 0.0  # all must be encoded
            at_once = max(1, self.args.pass_patches // num_cells)
        else:
            network.sampler = Pathwise(int(k))
            network.attention_dropout = self.options["attention_dropout"]
            at_once = max(1, self.args.pass_patches // int(k))
        network.patch_encoder.chunk_size = at_once * num_cells  # chunks of an image would be computed a second time

        self.optimizer.zero_grad()
        for first in range(0, batch, at_once):
            end = min(first + at_once, batch)
            thumbnails = self.thumbnails[first:end].to(self.device)
            with self._autocast():
                output = network(thumbnails, Part(patches, first, end), return_attention=True)
                loss = self.loss(output, self.labels[first:end])
            weighted = loss * ((end - first) / batch)
            weighted.backward()
        self.optimizer.step()
        self.wait()

    def infer(self, network: JSMANet, k: int | str, patches: PatchSource) -> Tensor:
        """Logits of the batch from ``k`` patches an image."""
        network.eval()
        network.patch_encoder.chunk_size = self.args.chunk_size
        sampler = AllPatches() if k == "all" else TopK(int(k), normalize=False)
        with torch.inference_mode(), self._autocast():
            thumbnails = self.thumbnails[: len(patches.grids)].to(self.device)
            logits = network(thumbnails, patches, sampler=sampler)
            return logits.float().cpu()

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def settings(self) -> dict[str, Any]:
        """All settings for the report."""
        gpu = None
        if self.device.type == "cuda":
            gpu = torch.cuda.get_device_name(self.device)
        network = {name: str(value) for name, value in {**self.options, **self.names}.items()}
        return {**vars(self.args), "network": network, "threads": torch.get_num_threads(), "gpu": gpu}

    def compile(self) -> None:
        """Compile the backbones, if the options say so. The counter no longer sees what is compiled."""
        if self.args.compile:
            for backbone in self.backbones.values():
                backbone.compile()

    def _build_backbone(self, name: str) -> nn.Module:
        memory_format = torch.contiguous_format if self.args.channels_first else torch.channels_last
        return build_bare_backbone(name).to(self.device, memory_format=memory_format)  # type: ignore[call-overload]

    def _open(self, magnifications: Sequence[Magnification]) -> PyramidBatch:
        finest = self.magnifications[-1].mpp
        size = self.options["patch_size"]
        pyramids = []
        for pixels in self._images:
            reader = ArrayReader(pixels)
            pyramids.append(Pyramid(reader, mpp=finest, magnifications=magnifications, patch_size=size))
        return PyramidBatch(pyramids)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.amp)


class Part:
    """Some images of a batch.

    Args:
        patches: patches of the batch.
        first: index of the first image.
        end: index after the last image.
    """

    def __init__(self, patches: PatchSource, first: int, end: int) -> None:
        self.grids = patches.grids[first:end]
        self._patches = patches
        self._first = first

    def read(self, images: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of the part's image ``images[i]``."""
        return self._patches.read(images + self._first, cells)


class Cropped:
    """All patches of a batch, cut beforehand and kept on the device: nothing is left to be read.

    Args:
        pyramids: images of one size.
        device: device of the patches.
    """

    def __init__(self, pyramids: PyramidBatch, device: torch.device) -> None:
        self.grids = pyramids.grids
        cells = range(pyramids[0].geometry.num_cells)
        patches = np.stack([pyramid.read(cells) for pyramid in pyramids])
        self._patches = torch.from_numpy(patches).to(device)

    def read(self, images: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of image ``images[i]``."""
        return self._patches[images, cells]


def multiply_adds(function: Callable[[], object]) -> int:
    """Count multiply-adds of the matrix products and convolutions of a call.

    Of a forward pass: PyTorch counts the backward pass of grouped convolutions as if they were dense.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2
