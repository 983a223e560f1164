# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A network and what was exported of it, asked the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.deploy import Runner, RunnerResult
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import Sampler, describe_sampler
from monai_jsma.slides import ArrayReader

TOLERANCE = 1e-4  # float32 through other kernels, by logits of 30 and more


def make_pyramid(number: int, *, magnifications=(2.0, 1.0), patch_size: int = 8, size=None) -> Pyramid:
    """Noise with a blank part, so that cells share their attention; of another size for each number."""
    generator = np.random.default_rng(number)
    height, width = generator.integers(5, 60, 2) if size is None else size
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 3] = 250
    reader = ArrayReader(pixels)
    return Pyramid(reader, mpp=1.0, magnifications=magnifications, patch_size=patch_size, path=f"{number}.png")


@torch.no_grad()
def ask_network(network: nn.Module, pyramid: Pyramid, sampler: Sampler, *, seed: int) -> dict[str, torch.Tensor]:
    """The outputs of a network for one image, as inference gives them."""
    thumbnail = torch.from_numpy(pyramid.thumbnail(tuple(network.thumbnail_size)))[None]
    inferer = JSMAInferer(sampler, seed=seed)
    outputs = inferer(thumbnail, network, pyramid=PyramidBatch([pyramid]), return_attention=True)
    return {name: value[0] for name, value in outputs.items()}


def ask_runner(folder: Path, pyramid: Pyramid, sampler: Sampler, *, seed: int) -> RunnerResult:
    """What the exported network says of the same image."""
    runner = Runner(folder, sampler=describe_sampler(sampler), seed=seed, num_threads=1)
    return runner.predict(pyramid)


def list_network_patches(outputs: dict[str, torch.Tensor]) -> list[tuple]:
    """Regions, cell and weight of each patch that a network has read."""
    cells = outputs["cells"].tolist()
    weights = outputs["weights"].tolist()
    regions = outputs["regions"].tolist() if "regions" in outputs else [[]] * len(cells)
    is_read = (outputs["weights"] != 0).tolist()
    patches = zip(is_read, regions, cells, weights)
    return [(tuple(path), cell, weight) for read, path, cell, weight in patches if read]


def check_same(result: RunnerResult, outputs: dict[str, torch.Tensor], *, ordered: bool = True) -> float:
    """Check that a runner gives the patches, label and numbers of a network; largest difference of probabilities."""
    expected = list_network_patches(outputs)
    given = [(patch.regions, patch.cell, patch.weight) for patch in result.patches]
    if not ordered:
        expected.sort()
        given.sort()
    assert [patch[:2] for patch in given] == [patch[:2] for patch in expected]
    np.testing.assert_allclose(
        [patch[2] for patch in given], [patch[2] for patch in expected], atol=TOLERANCE, rtol=TOLERANCE
    )
    assert result.label == int(outputs["logits"].argmax())
    probabilities = outputs["logits"].softmax(0).numpy()
    np.testing.assert_allclose(result.probabilities, probabilities, atol=TOLERANCE)
    for name in ("certified", "intervals", "confidence", "draw_probabilities"):
        assert (name in result.outputs) == (name in outputs)
        if name in outputs:
            np.testing.assert_allclose(result.outputs[name], outputs[name].numpy(), atol=TOLERANCE, err_msg=name)
    return float(np.abs(result.probabilities - probabilities).max())
