# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Networks with a frozen f, and batches from files, shared by the tests of the feature cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import MAGNIFICATIONS, PATCH, mil_net, tiny_net
from torch import Tensor, nn

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.networks import AttentionMIL, ConvBackbone, JSMANet
from monai_jsma.transforms import LoadPyramid

NETS = {"ours": tiny_net, "mil": mil_net}
each_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


def load(files: list[Path], view: Callable[[Pyramid], Pyramid] = lambda p: p, **options: Any) -> PyramidBatch:
    """Opened anew, as in every epoch."""
    loader = LoadPyramid(MAGNIFICATIONS, PATCH, default_mpp=1.0, **options)
    return PyramidBatch(view(loader(path)) for path in files)


def thumbnails(batch: PyramidBatch) -> Tensor:
    return torch.from_numpy(np.stack([pyramid.thumbnail((16, 16)) for pyramid in batch]))


@contextmanager
def counted(net: JSMANet | AttentionMIL) -> Iterator[list[int]]:
    """How many patches went through f, pass by pass."""
    passes: list[int] = []
    hook = net.patch_encoder.backbone.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    yield passes
    hook.remove()


def ask(net: JSMANet | AttentionMIL, batch: PyramidBatch, **call: Any) -> tuple[Tensor, int]:
    """Logits in evaluation, and the number of patches that were encoded for them."""
    with counted(net) as passes, torch.inference_mode():
        return net.eval()(thumbnails(batch), batch, **call), sum(passes)


def frozen(make: Callable[..., Any], folder: Path | None, **options: Any) -> Any:
    return make(frozen=True, feature_cache=folder, **options)


def backbone_of_statistics() -> ConvBackbone:
    """An f whose batch statistics would move if it were not in evaluation."""
    torch.manual_seed(1)
    backbone = ConvBackbone((8, 16))
    backbone[1] = nn.BatchNorm2d(8)
    return backbone
