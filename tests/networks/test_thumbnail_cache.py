# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A frozen h does not learn, and its maps are kept: never one of other pixels or of another encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from feature_cases import backbone_of_statistics, load, thumbnails
from tiny_networks import tiny_net
from torch import Tensor

from monai_jsma.data import PyramidBatch, StainMap
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import AllPatches, ConvBackbone, JSMANet, PatchEncoder, build_backbone


def make(folder: Any = None, **options: Any) -> JSMANet:
    settings = {"thumbnail_encoder": backbone_of_statistics(), "freeze_thumbnail_encoder": True}
    return tiny_net(**settings | {"sampler": AllPatches(), "thumbnail_cache": folder} | options)


@contextmanager
def counted(net: JSMANet) -> Iterator[list[int]]:
    """How many thumbnails went through h, pass by pass."""
    passes: list[int] = []
    hook = net.thumbnail_encoder.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    yield passes
    hook.remove()


def ask(net: JSMANet, batch: PyramidBatch, image: Tensor | None = None) -> tuple[Tensor, int]:
    """Logits in evaluation, and the number of thumbnails that were encoded for them."""
    image = thumbnails(batch) if image is None else image
    with counted(net) as passes, torch.inference_mode():
        return net.eval()(image, batch), sum(passes)


@pytest.mark.parametrize("cache", [False, True])
def test_all_learns_but_h(cache, files, tmp_path):
    net = make(tmp_path if cache else None)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        net.train()
        assert not any(module.training for module in net.thumbnail_encoder.modules())
        batch = load(files)
        prediction = net(thumbnails(batch), batch, return_attention=True)
        optimizer.zero_grad()
        JSMALoss(alpha=0.1)(prediction, torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    same = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"spacings", "trained_with"} | {name for name in before if name.startswith("thumbnail_encoder.")}


def test_kept_maps_give_the_same_answer(files, tmp_path):
    reference, encoded = ask(make(), load(files))
    assert encoded == len(files)
    net = make(tmp_path)
    first, _ = ask(net, load(files))
    again, encoded = ask(net, load(files))
    assert encoded == 0
    assert torch.equal(first, reference)
    assert torch.equal(again, reference)
    later, encoded = ask(make(tmp_path), load(files))  # another run; one thumbnail tells the size of a map
    assert torch.equal(later, reference)
    assert encoded == 1


def change_weight(net: JSMANet) -> None:
    with torch.no_grad():
        net.thumbnail_encoder.model[0].weight.add_(0.5)


def test_other_weights_and_other_pixels_have_other_maps(files, tmp_path):
    net = make(tmp_path)
    before, _ = ask(net, load(files))
    change_weight(net)
    changed = make()
    change_weight(changed)
    after, encoded = ask(net, load(files))
    assert encoded == len(files)
    assert torch.equal(after, ask(changed, load(files))[0])
    assert not torch.equal(after, before)

    batch = load(files)
    image = thumbnails(batch)
    brighter = (image + 1).clamp_max(255)
    assert torch.equal(ask(net, batch, brighter)[0], ask(changed, batch, brighter)[0])
    oriented = load(files, lambda pyramid: pyramid.oriented(3))
    assert torch.equal(ask(net, oriented)[0], ask(changed, oriented)[0])
    floats = image.float() / 255
    assert torch.equal(ask(net, batch, floats)[0], ask(changed, batch, floats)[0])


def test_what_never_comes_again_is_not_kept(files, tmp_path):
    ask(make(tmp_path / "f"), load(files, lambda pyramid: pyramid.stained(StainMap((1.2, 0.8, 1.0)))))
    assert not (tmp_path / "f").exists()


def test_maps_and_features_share_a_folder(files, tmp_path):
    """Even those of one backbone: a feature is not taken for a map."""
    options: dict[str, Any] = {"thumbnail_encoder": ConvBackbone((8, 16)), "frozen": True}
    kept = make(tmp_path, **options, feature_cache=tmp_path)
    plain = make(**options)
    for net in (kept, plain):
        net.thumbnail_encoder.load_state_dict(net.patch_encoder.backbone.state_dict())
    plain.load_state_dict(kept.state_dict())
    for _ in range(2):
        assert torch.equal(ask(kept, load(files))[0], ask(plain, load(files))[0])


def test_an_h_that_learns_or_is_not_there_keeps_nothing(files, tmp_path):
    ask(make(tmp_path / "f", freeze_thumbnail_encoder=False), load(files))
    without = make(tmp_path / "f", thumbnail_encoder=None)
    batch = load(files)
    without(thumbnails(batch), batch)
    assert not (tmp_path / "f").exists()


def test_a_shared_backbone_is_frozen_in_both_places_or_in_none():
    shared = build_backbone(ConvBackbone(), None)
    tiny_net(thumbnail_encoder=shared, patch_encoder=PatchEncoder(shared, frozen=True), freeze_thumbnail_encoder=True)
    with pytest.raises(ValueError, match="freeze both"):
        tiny_net(thumbnail_encoder=shared, patch_encoder=PatchEncoder(shared), freeze_thumbnail_encoder=True)
