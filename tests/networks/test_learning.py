# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The network finds one cell of 84 and its magnification by the class label alone, and fails where the answer is not.

Patches of all cells are cut beforehand, by slicing and block means, so that a step costs little.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from monai_jsma.datalists.synthetic import GEOMETRY, make_picture
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import ConvBackbone, JSMANet, LeaveOneOut, PatchEncoder, TopK


def block_mean(image: np.ndarray, n: int) -> np.ndarray:
    height, width, channels = image.shape
    return image.reshape(height // n, n, width // n, n, channels).mean((1, 3)).round().astype(np.uint8)


class CutPictures:
    """Pictures as thumbnails ``(n, 3, 32, 32)``, all their patches ``(n, 84, 3, 32, 32)``, labels and true cells."""

    def __init__(self, number: int, seed: int) -> None:
        pictures = [make_picture(i % 4, np.random.default_rng((seed, i))) for i in range(number)]
        self.thumbnails = self._tensor([block_mean(p.image, 8) for p in pictures])
        self.patches = torch.stack([self._tensor(self._cut(p.image)) for p in pictures])
        self.labels = torch.tensor([p.label for p in pictures])
        self.cells = torch.tensor([p.cells[0] for p in pictures])

    @staticmethod
    def _cut(image: np.ndarray) -> list[np.ndarray]:
        levels = [block_mean(image, n) for n in (4, 2, 1)]
        boxes = [(GEOMETRY.cell(i).level, GEOMETRY.level_box(i)) for i in range(GEOMETRY.num_cells)]
        return [levels[j][int(b.row) : int(b.row) + 32, int(b.col) : int(b.col) + 32] for j, b in boxes]

    @staticmethod
    def _tensor(images: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


class Chosen:
    """A batch of cut pictures as the network reads it."""

    def __init__(self, pictures: CutPictures, which: torch.Tensor) -> None:
        self.patches, self.grids = pictures.patches[which], [GEOMETRY.grids] * len(which)

    def read(self, pictures: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        return self.patches[pictures, cells]


@pytest.fixture(scope="module")
def training() -> CutPictures:
    return CutPictures(384, seed=1)


@pytest.fixture(scope="module")
def held_out() -> CutPictures:
    return CutPictures(100, seed=2)


def make_net(**options) -> JSMANet:
    torch.manual_seed(0)
    h, f = ConvBackbone(), PatchEncoder(ConvBackbone((16, 32)), feature_norm="l2")
    fixed = {"weights": None, "thumbnail_size": (32, 32), "patch_size": 32, "dropout": 0.0}
    return JSMANet(4, GEOMETRY.magnifications, thumbnail_encoder=h, patch_encoder=f, **fixed, **options)


def test_leave_one_out_finds_the_place_and_the_magnification(training, held_out):
    net = make_net(sampler=LeaveOneOut(16), normalization="softmax", level_prior="balanced", attention_dropout=0.0)
    optimizer, criterion = torch.optim.Adam(net.parameters(), 2e-3), JSMALoss(0.01, "kl")
    for _ in range(450):
        which = torch.randint(len(training.labels), (32,))
        output = net(training.thumbnails[which], Chosen(training, which), return_attention=True)
        optimizer.zero_grad()
        criterion(output, training.labels[which]).backward()
        optimizer.step()
    net.eval()
    everything = torch.arange(len(held_out.labels))
    with torch.inference_mode():
        output = net(held_out.thumbnails, Chosen(held_out, everything), return_attention=True, sampler=TopK(4))
    assert (output["logits"].argmax(1) == held_out.labels).float().mean() >= 0.95
    first, end = GEOMETRY.offsets[1:3]
    assert output["attention"][:, first:end].sum(1).mean() >= 0.9
    assert output["attention"][everything, held_out.cells].mean() >= 0.9


@pytest.mark.parametrize(("level", "learns"), [(0, False), (1, True), (2, False)])
def test_only_the_true_magnification_can_be_learned(level, learns, training, held_out):
    """With the attention given, equal over the cells of one magnification that lie at the true place."""
    net = make_net()
    parameters = [*net.patch_encoder.parameters(), *net.classifier.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-3)

    def logits(pictures, which):
        here = torch.stack([at_the_true_place(int(c), level) for c in pictures.cells[which]])
        patches = pictures.patches[which[:, None], here]
        return net.classifier(net.patch_encoder(patches.flatten(0, 1)).unflatten(0, here.shape).mean(1))

    for _ in range(120):
        which = torch.randint(len(training.labels), (32,))
        optimizer.zero_grad()
        cross_entropy(logits(training, which), training.labels[which]).backward()
        optimizer.step()
    with torch.inference_mode():
        accuracy = (logits(held_out, torch.arange(len(held_out.labels))).argmax(1) == held_out.labels).float().mean()
    assert accuracy >= 0.95 if learns else accuracy <= 0.45


def at_the_true_place(cell: int, level: int) -> torch.Tensor:
    """Cells of a magnification that lie in, or hold, the true cell."""
    true = GEOMETRY.cell_box(cell)
    centre = true.row + true.height / 2, true.col + true.width / 2
    found = []
    for index in range(*GEOMETRY.offsets[level : level + 2]):
        box = GEOMETRY.cell_box(index)
        middle = box.row + box.height / 2, box.col + box.width / 2
        reach = max(box.height, true.height) / 2
        if all(abs(a - b) < reach for a, b in zip(centre, middle)):
            found.append(index)
    return torch.tensor(found)
