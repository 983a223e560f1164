# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the speed benchmarks run: a bundle's network and loss, as in the paper, on pictures of the size of its data set.

Pixels, weights and labels are random: none of them changes the time. Networks for one magnification and for all share
their backbones, so that only one pair of them is in memory. Pictures and thumbnails are in memory, patches are cut from
the pictures as in any training, unless ``--cropped`` leaves this out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from monai_jsma.cli.bundles import read_config
from monai_jsma.data import ArrayReader, Magnification, Pyramid, PyramidBatch
from monai_jsma.networks import AllPatches, JSMANet, PatchEncoder, PatchSource, Pathwise, TopK, build_backbone

__all__ = [
    "BUNDLES",
    "MODULES",
    "PICTURES",
    "Cropped",
    "Part",
    "Workload",
    "add_arguments",
    "multiply_adds",
    "positive",
]

MODULES = ("monai_jsma", "monai", "timm", "torch")  # whose versions a report tells
PICTURES = {"bach": (1536, 2048), "tcga_prad": (2000, 2000)}  # height, width at the finest magnification
BUNDLES = Path(__file__).parents[1] / "bundles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what is run, and how."""
    parser.add_argument("--bundle", choices=PICTURES, default="bach", help="default: %(default)s")
    parser.add_argument("--thumbnail-backbone", metavar="NAME", help="h, a timm name (default: the bundle's)")
    parser.add_argument("--patch-backbone", metavar="NAME", help="f, a timm name (default: the bundle's)")
    parser.add_argument("--shrink", type=positive, default=1, metavar="N", help="divide all sides of all images by N")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--batch-size", type=positive, default=4, metavar="N", help="pictures (default: %(default)s)")
    parser.add_argument(
        "--chunk-size", type=positive, default=16, metavar="N", help="of evaluation (default: %(default)s)"
    )
    parser.add_argument(
        "--pass-patches", type=positive, default=64, metavar="N",
        help="of a training pass, but at least those of one picture (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--cropped", action="store_true", help="cut all patches beforehand and keep them on the device")
    parser.add_argument("--amp", action="store_true", help="mixed precision: bfloat16")
    parser.add_argument("--channels-first", action="store_true", help="of the weights; the bundles' are channels last")
    parser.add_argument("--compile", action="store_true", help="compile the backbones")
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="the median counts (default: %(default)s)"
    )


def positive(text: str) -> int:
    """An option's whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


class Workload:
    """A batch of pictures, networks to run on it, and their steps.

    Args:
        args: of :func:`add_arguments`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.args, self.device = args, torch.device(args.device)
        self.meter = 1 if self.device.type == "cpu" else 0  # of (clock, processor)
        bundle = read_config(BUNDLES / args.bundle, ["paper"])
        del bundle["network_def"]["patch_encoder"]
        self.options = bundle.get_parsed_content("network_def", instantiate=False).resolve_args()
        self.options["patch_size"] //= args.shrink
        self.options["thumbnail_size"] = tuple(side // args.shrink for side in self.options["thumbnail_size"])
        self.magnifications = [Magnification(mpp) for mpp in self.options["magnifications"]]
        self.names = {
            "thumbnail_encoder": args.thumbnail_backbone or bundle.get_parsed_content("thumbnail_backbone"),
            "patch_encoder": args.patch_backbone or bundle.get_parsed_content("patch_backbone"),
        }
        self.backbones = {name: self._backbone(backbone) for name, backbone in self.names.items()}
        self.loss = bundle.get_parsed_content("loss")
        self.optimizer = torch.optim.Adam(nn.ModuleList(self.backbones.values()).parameters())
        size = tuple(side // args.shrink for side in PICTURES[args.bundle])
        random = np.random.default_rng(0)
        self._pictures = [random.integers(0, 256, (*size, 3), np.uint8) for _ in range(args.batch_size)]
        thumbnails = [p.thumbnail(self.options["thumbnail_size"]) for p in self._pyramids(self.magnifications)]
        self.thumbnails = torch.from_numpy(np.stack(thumbnails))
        self.labels = torch.zeros(args.batch_size, dtype=torch.long, device=self.device)

    def network(self, magnifications: Sequence[Magnification], **backbones: nn.Module) -> JSMANet:
        """The bundle's network for these magnifications; of the shared backbones, or of those given."""
        options = {**self.options, "magnifications": magnifications, **(backbones or self.backbones)}
        options["patch_encoder"] = PatchEncoder(options["patch_encoder"], chunk_size=self.args.chunk_size)
        network = JSMANet(**options)
        network.to(self.device)
        parts = nn.ModuleList((network.attention, network.classifier))
        self.optimizer.add_param_group({"params": parts.parameters()})
        return network

    def patches(self, magnifications: Sequence[Magnification], batch: int) -> PatchSource:
        """What the patches of the first ``batch`` pictures are read from."""
        pyramids = PyramidBatch(self._pyramids(magnifications)[:batch])
        return Cropped(pyramids, self.device) if self.args.cropped else pyramids

    def train(self, network: JSMANet, k: int | str, patches: PatchSource) -> None:
        """A step on ``k`` patches a picture, in as many passes as memory asks for; their gradients are added."""
        network.train().sampler = AllPatches() if k == "all" else Pathwise(int(k))
        network.attention_dropout = 0.0 if k == "all" else self.options["attention_dropout"]  # all must be encoded
        cells = max(sum(rows * cols for rows, cols in grids) for grids in patches.grids)
        batch, at_once = len(patches.grids), max(1, self.args.pass_patches // (cells if k == "all" else int(k)))
        network.patch_encoder.chunk_size = at_once * cells  # chunks of a picture would be computed a second time
        self.optimizer.zero_grad()
        for first in range(0, batch, at_once):
            end = min(first + at_once, batch)
            part, thumbnails = Part(patches, first, end), self.thumbnails[first:end].to(self.device)
            with self._autocast():
                loss = self.loss(network(thumbnails, part, return_attention=True), self.labels[first:end])
            (loss * ((end - first) / batch)).backward()
        self.optimizer.step()
        self.wait()

    def infer(self, network: JSMANet, k: int | str, patches: PatchSource) -> Tensor:
        """Logits of the batch from ``k`` patches a picture."""
        network.eval().patch_encoder.chunk_size = self.args.chunk_size
        sampler = AllPatches() if k == "all" else TopK(int(k), normalize=False)
        with torch.inference_mode(), self._autocast():
            thumbnails = self.thumbnails[: len(patches.grids)].to(self.device)
            return network(thumbnails, patches, sampler=sampler).float().cpu()

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def settings(self) -> dict[str, Any]:
        """All that the report must tell."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        network = {name: str(value) for name, value in {**self.options, **self.names}.items()}
        return {**vars(self.args), "network": network, "threads": torch.get_num_threads(), "gpu": gpu}

    def compile(self) -> None:
        """Compile the backbones, if that was asked for. What is compiled is no longer seen by the counter."""
        if self.args.compile:
            for backbone in self.backbones.values():
                backbone.compile()

    def _backbone(self, name: str) -> nn.Module:
        backbone = build_backbone(name, None)
        backbone.model.num_features = backbone.num_features  # what a network asks of a module
        memory_format = torch.contiguous_format if self.args.channels_first else torch.channels_last
        return backbone.model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]

    def _pyramids(self, magnifications: Sequence[Magnification]) -> PyramidBatch:
        finest, size = self.magnifications[-1].mpp, self.options["patch_size"]
        return PyramidBatch(
            Pyramid(ArrayReader(pixels), mpp=finest, magnifications=magnifications, patch_size=size)
            for pixels in self._pictures
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.amp)


class Part:
    """Some pictures of a batch.

    Args:
        patches: of the batch.
        first: its first picture.
        end: the one after its last.
    """

    def __init__(self, patches: PatchSource, first: int, end: int) -> None:
        self.grids, self._patches, self._first = patches.grids[first:end], patches, first

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of the part's picture ``pictures[i]``."""
        return self._patches.read(pictures + self._first, cells)


class Cropped:
    """All patches of a batch, cut beforehand and kept on the device: nothing is left to be read.

    Args:
        pyramids: pictures of one size.
        device: of the patches.
    """

    def __init__(self, pyramids: PyramidBatch, device: torch.device) -> None:
        self.grids = pyramids.grids
        cells = range(pyramids[0].geometry.num_cells)
        self._patches = torch.from_numpy(np.stack([p.read(cells) for p in pyramids])).to(device)

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of picture ``pictures[i]``."""
        return self._patches[pictures, cells]


def multiply_adds(function: Callable[[], object]) -> int:
    """Multiply-adds of the matrix products and convolutions of a call.

    Of a forward pass: PyTorch counts the backward pass of grouped convolutions as if they were dense.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2
