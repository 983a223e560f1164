# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A kept feature is never taken for that of another encoder, view, region, grid or file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_cases import ask, backbone_of_statistics, frozen, load
from PIL import Image
from tiny_networks import CELLS, MAGNIFICATIONS, PATCH, mil_net, pictures
from torch import nn

from monai_jsma.data import Pyramid, PyramidBatch, StainMap
from monai_jsma.networks import AttentionMIL
from monai_jsma.transforms import LoadPyramid


def perturbed(net: AttentionMIL, change: Callable[[AttentionMIL], object]) -> AttentionMIL:
    with torch.no_grad():
        change(net)
    return net.eval()


def add_to_data(parameter: nn.Parameter) -> None:
    parameter.data = parameter + 1


ENCODERS = {
    "a weight": lambda net: net.patch_encoder.backbone.model[0].weight[0, 0, 0, 0].add_(0.5),
    "data": lambda net: setattr(
        net.patch_encoder.backbone.model[3].bias, "data", net.patch_encoder.backbone.model[3].bias + 1
    ),
    "a buffer": lambda net: net.patch_encoder.backbone.mean.add_(0.1),
    "statistics": lambda net: net.patch_encoder.backbone.model[1].running_mean.add_(1.0),
    "loaded": lambda net: net.patch_encoder.backbone.load_state_dict(
        {name: value + 0.1 for name, value in net.patch_encoder.backbone.state_dict().items()}
    ),
    "another": lambda net: setattr(net.patch_encoder, "backbone", mil_net().patch_encoder.backbone),
    "a layer": lambda net: net.patch_encoder.backbone.model.__setitem__(2, nn.SiLU()),
    "the norm": lambda net: setattr(net.patch_encoder, "feature_norm", "l2"),  # of the same kept features
}


@pytest.mark.parametrize("change", ENCODERS.values(), ids=ENCODERS)
def test_another_encoder_is_not_taken_for_this_one(change, files, tmp_path):
    def make(folder: Path | None) -> AttentionMIL:
        return frozen(mil_net, folder, patch_encoder=backbone_of_statistics())

    net = make(tmp_path / "f")
    before, _ = ask(net, load(files))
    reference, _ = ask(perturbed(make(None), change), load(files))
    assert not torch.allclose(before, reference)
    for changed in (perturbed(net, change), perturbed(make(tmp_path / "f"), change)):  # in this run, in the next
        after, encoded = ask(changed, load(files))
        assert torch.equal(after, reference)
        assert encoded == (sum(CELLS) if changed is net and change is not ENCODERS["the norm"] else 0)
    assert ask(make(tmp_path / "f"), load(files))[1] == 0  # the first is still known


def test_precision_is_part_of_the_encoder(files, tmp_path):
    net = frozen(mil_net, tmp_path / "f")
    full, _ = ask(net, load(files))
    with torch.autocast("cpu", torch.bfloat16):
        half, encoded = ask(net, load(files))
        assert torch.equal(ask(frozen(mil_net, None), load(files))[0], half)
    assert encoded == sum(CELLS)
    assert not torch.equal(half, full)
    assert ask(net, load(files))[1] == 0


VIEWS: dict[str, tuple[dict[str, Any], Callable[[Pyramid], Pyramid]]] = {
    **{f"orientation {i}": ({}, lambda p, i=i: p.oriented(i)) for i in range(1, 8)},
    "a stain": ({}, lambda p: p.stained(StainMap((1.2, 0.8, 1.0)))),
    "aligned": ({"aligned": True}, lambda p: p),
}


@pytest.mark.parametrize(("options", "view"), VIEWS.values(), ids=VIEWS)
def test_another_view_is_not_taken_for_this_one(options, view, files, tmp_path):
    net = frozen(mil_net, tmp_path / "f")
    before, _ = ask(net, load(files))
    for _ in range(2):
        after, encoded = ask(net, load(files, view, **options))
        assert torch.equal(after, ask(frozen(mil_net, None), load(files, view, **options))[0])
    assert not torch.allclose(before, after)
    assert encoded == (sum(CELLS) if view is VIEWS["a stain"][1] else 0)  # a drawn stain never comes again


@pytest.mark.parametrize("place", [{"location": (0, 0)}, {"location": (1, 0)}, {"mpp": 0.5}])
def test_another_region_is_not_taken_for_this_one(place, files, tmp_path):
    def region(**place: Any) -> PyramidBatch:
        loader = LoadPyramid(MAGNIFICATIONS, PATCH)
        return PyramidBatch([loader(files[1], **{"mpp": 1.0, "location": (0, 0), "size": (30, 30), **place})])

    net = frozen(mil_net, tmp_path / "f")
    ask(net, region())
    after, encoded = ask(net, region(**place))
    assert torch.equal(after, ask(frozen(mil_net, None), region(**place))[0])
    assert (encoded == 0) == (place == {"location": (0, 0)})


@pytest.mark.parametrize("magnifications", [(4.0, 2.0), (2.0,), (3.0, 1.0)])
def test_another_grid_is_not_taken_for_this_one(magnifications, files, tmp_path):
    def load(magnifications: tuple[float, ...]) -> PyramidBatch:
        return PyramidBatch(LoadPyramid(magnifications, PATCH, default_mpp=1.0)(path) for path in files)

    ask(frozen(mil_net, tmp_path / "f"), load(MAGNIFICATIONS))
    after, _ = ask(frozen(mil_net, tmp_path / "f"), load(magnifications))
    assert torch.equal(after, ask(frozen(mil_net, None), load(magnifications))[0])


def test_a_file_that_was_exchanged_is_read_again(files, tmp_path):
    """Even for one of the same length and the same date."""
    paths = [tmp_path / f"{i}.bmp" for i in range(2)]
    for path, picture in zip(paths, pictures((24, 20), (24, 20))):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    state = paths[0].stat()
    net = frozen(mil_net, tmp_path / "f")
    before, cells = ask(net, load(paths[:1]))
    paths[0].write_bytes(paths[1].read_bytes())
    os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (paths[0].stat().st_size, paths[0].stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    after, encoded = ask(net, load(paths[:1]))
    assert encoded == cells
    assert torch.equal(after, ask(frozen(mil_net, None), load(paths[1:]))[0])
    assert not torch.allclose(after, before)


def test_damaged_features_are_made_again(files, tmp_path):
    reference, _ = ask(frozen(mil_net, tmp_path / "f"), load(files))
    (path,) = (tmp_path / "f").rglob("*.features")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    after, encoded = ask(frozen(mil_net, tmp_path / "f"), load(files))
    assert encoded == 1
    torch.testing.assert_close(after, reference)  # one patch in a pass of its own: other rounding
    assert len(list((tmp_path / "f").iterdir())) == 1
