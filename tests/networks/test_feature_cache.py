# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A frozen f does not learn, and what it made of a patch is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_cases import NETS, ask, backbone_of_statistics, counted, each_net, frozen, load, thumbnails
from slide_files import levels_of, write_pyramid
from tiny_networks import CELLS, MAGNIFICATIONS, PATCH, mil_net, pictures, tiny_net
from torch import Tensor

from monai_jsma.data import ArrayReader, Pyramid, PyramidBatch
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import (
    AllPatches,
    Certified,
    ConvBackbone,
    LeaveOneOut,
    PatchEncoder,
    Pathwise,
    TopK,
    build_backbone,
)

MANY = {"sampler": AllPatches()}


@pytest.mark.parametrize("cache", [False, True])
@each_net
def test_all_learns_but_f(make, cache, files, tmp_path):
    net = frozen(make, tmp_path / "f" if cache else None, patch_encoder=backbone_of_statistics())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert before.keys() == make(patch_encoder=backbone_of_statistics()).state_dict().keys()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        net.train()
        assert not any(module.training for module in net.patch_encoder.backbone.modules())
        batch = load(files)
        prediction = net(thumbnails(batch), batch, return_attention=True)
        optimizer.zero_grad()
        JSMALoss(alpha=0.1 if make is tiny_net else 0.0)(prediction, torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    same = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"spacings", "trained_with"} | {name for name in before if name.startswith("patch_encoder.")}
    assert not any(
        parameter.requires_grad for parameter in net.patch_encoder.backbone.parameters()
    )  # as DDP wants to know


@each_net
def test_gradients_of_all_else_are_those_of_a_trained_f(make, files):
    found = {}
    for freeze in (False, True):
        net = make(frozen=freeze, sampler=Pathwise(31)) if make is tiny_net else make(frozen=freeze)
        batch = load(files)
        net.train()(thumbnails(batch), batch).square().sum().backward()
        found[freeze] = {n: p.grad for n, p in net.named_parameters() if not n.startswith("patch_encoder.")}
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[True].items():
        torch.testing.assert_close(gradient, found[False][name])


@pytest.mark.parametrize("freeze", [False, True])
def test_no_graph_is_kept_for_a_frozen_f(freeze, files):
    """In chunks, all patches pass twice where f learns: forth, and again on the way back."""
    net, batch = mil_net(frozen=freeze, chunk_size=8), load(files)
    with counted(net) as passes:
        net.train()(thumbnails(batch), batch).sum().backward()
    assert sum(passes) == sum(CELLS) * (1 if freeze else 2)


def test_what_cannot_be(tmp_path):
    for make in NETS.values():
        with pytest.raises(ValueError, match=r"feature_cache '.*' keeps what does not change, but f is being trained"):
            make(feature_cache=tmp_path)
    shared = build_backbone(ConvBackbone(), None)
    with pytest.raises(ValueError, match="a frozen patch_encoder would freeze h too"):
        tiny_net(thumbnail_encoder=shared, patch_encoder=PatchEncoder(shared, frozen=True))


@pytest.mark.parametrize("call", [{}, MANY, {"sampler": TopK(2, normalize=False)}])
@each_net
def test_kept_features_give_the_same_answer(make, call, files, tmp_path):
    call = call if make is tiny_net else {}
    reference, encoded = ask(frozen(make, None), load(files), **call)
    first = ask(frozen(make, tmp_path / "f"), load(files), **call)
    again = ask(frozen(make, tmp_path / "f"), load(files), **call)  # another run
    assert torch.equal(first[0], reference)
    assert torch.equal(again[0], reference)
    assert (first[1], again[1]) == (encoded, 0)


@each_net
def test_each_cell_is_encoded_once_however_often_it_is_drawn(make, files, tmp_path):
    net, drawn, encoded = frozen(make, tmp_path / "f"), set(), 0
    for _ in range(12):
        batch = load(files)
        with counted(net) as passes:
            output = net.train()(thumbnails(batch), batch, return_attention=True)
        cells, exist = output["cells"], output["weights"] > 0
        drawn |= {(i, int(cell)) for i in range(len(files)) for cell in cells[i][exist[i]]}
        encoded += sum(passes)
        assert encoded == len(drawn)
    assert (make is mil_net) == (len(drawn) == sum(CELLS))
    assert ask(net, load(files), **MANY)[1] == sum(CELLS) - len(drawn)


def test_networks_of_one_encoder_share_its_features(files, tmp_path):
    ours, mil = frozen(tiny_net, tmp_path / "f"), frozen(mil_net, tmp_path / "f")
    mil.patch_encoder.backbone.load_state_dict(ours.patch_encoder.backbone.state_dict())
    assert ask(mil, load(files))[1] == sum(CELLS)
    assert ask(ours, load(files), **MANY)[1] == 0


def test_certified_stopping_reads_what_is_not_known(files, tmp_path):
    options = {"feature_norm": "l2", "sampler": LeaveOneOut(3)}
    call = {"sampler": Certified(5), "return_attention": True}
    reference, _ = ask(frozen(tiny_net, None, **options), load(files), **call)
    first, encoded = ask(frozen(tiny_net, tmp_path / "f", **options), load(files), **call)
    again, none = ask(frozen(tiny_net, tmp_path / "f", **options), load(files), **call)
    assert (encoded > 0, none) == (True, 0)
    for name, value in reference.items():
        torch.testing.assert_close(first[name], value)
        assert torch.equal(again[name], first[name])


def test_a_known_patch_of_a_slide_is_not_decoded(tmp_path, monkeypatch):
    slide = tmp_path / "slide.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8)
    write_pyramid(slide, levels_of(pixels, (2,)), compression="jpeg", mpp=1.0)
    net = frozen(mil_net, tmp_path / "f")
    first, encoded = ask(net, load([slide]))
    batch = load([slide])
    image = thumbnails(batch)
    monkeypatch.setattr(type(batch[0].reader), "_read", lambda *window: pytest.fail("a patch was decoded"))
    with torch.inference_mode():
        assert torch.equal(net(image, batch), first)
    assert encoded == batch[0].geometry.num_cells


def test_what_was_encoded_before_a_failure_is_kept(files, tmp_path):
    net = frozen(mil_net, tmp_path / "f", chunk_size=8)
    batch = load(files)
    read, chunks = batch.read, []

    class Failing(PyramidBatch):
        def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
            chunks.append(len(cells))
            if len(chunks) == 4:
                raise KeyboardInterrupt
            return read(pictures, cells)

    with pytest.raises(KeyboardInterrupt):
        ask(net, Failing(batch))
    assert ask(frozen(mil_net, tmp_path / "f"), batch)[1] == sum(CELLS) - 3 * 8


@each_net
def test_pictures_that_are_in_no_file_are_not_kept(make, tmp_path):
    whole = torch.stack(pictures((24, 20), (24, 20)))
    reference = frozen(make, None).eval()(whole)
    assert torch.equal(frozen(make, tmp_path / "f").eval()(whole), reference)
    reader = ArrayReader(whole[0].permute(1, 2, 0).numpy(), "a name is not a file")
    pyramid = Pyramid(reader, mpp=1.0, magnifications=MAGNIFICATIONS, patch_size=PATCH, path=reader.path)
    ask(frozen(make, tmp_path / "f"), PyramidBatch([pyramid]))
    assert not (tmp_path / "f").exists()
