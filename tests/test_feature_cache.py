# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A frozen f does not learn; what it made of a patch is kept, and never taken for that of another patch or encoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from slide_files import levels_of, write_pyramid
from tiny_networks import CELLS, MAGNIFICATIONS, PATCH, SIZES, mil_net, pictures, tiny_net
from torch import Tensor, nn

from monai_jsma.data import ArrayReader, Pyramid, PyramidBatch, StainMap
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import ConvBackbone, PatchNetwork
from monai_jsma.transforms import LoadPyramid

NETS = {"ours": tiny_net, "mil": mil_net}
each_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)
MANY = {"num_patches": "all"}


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Pictures of three sizes; the last is smaller than a patch."""
    paths = [tmp_path / f"{i}.png" for i in range(len(SIZES))]
    for path, picture in zip(paths, pictures(*SIZES)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    return paths


def load(files: list[Path], view: Callable[[Pyramid], Pyramid] = lambda p: p, **options: Any) -> PyramidBatch:
    """Opened anew, as in every epoch."""
    loader = LoadPyramid(MAGNIFICATIONS, PATCH, default_mpp=1.0, **options)
    return PyramidBatch(view(loader(path)) for path in files)


def thumbnails(batch: PyramidBatch) -> Tensor:
    return torch.from_numpy(np.stack([pyramid.thumbnail((16, 16)) for pyramid in batch]))


@contextmanager
def counted(net: PatchNetwork) -> Iterator[list[int]]:
    """How many patches went through f, pass by pass."""
    passes: list[int] = []
    hook = net.patch_backbone.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    yield passes
    hook.remove()


def ask(net: PatchNetwork, batch: PyramidBatch, **call: Any) -> tuple[Tensor, int]:
    """Logits in evaluation, and the number of patches that were encoded for them."""
    with counted(net) as passes, torch.inference_mode():
        return net.eval()(thumbnails(batch), batch, **call), sum(passes)


def frozen(make: Callable[..., Any], folder: Path | None, **options: Any) -> Any:
    return make(freeze_patch_backbone=True, feature_cache=folder, **options)


def backbone_of_statistics() -> ConvBackbone:
    """An f whose batch statistics would move if it were not in evaluation."""
    torch.manual_seed(1)
    backbone = ConvBackbone((8, 16))
    backbone[1] = nn.BatchNorm2d(8)
    return backbone


# -------------------------------------------------------------------------------------------------------- a frozen f


@pytest.mark.parametrize("cache", [False, True])
@each_net
def test_all_learns_but_f(make, cache, files, tmp_path):
    net = frozen(make, tmp_path / "f" if cache else None, patch_backbone=backbone_of_statistics())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert before.keys() == make(patch_backbone=backbone_of_statistics()).state_dict().keys()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        net.train()
        assert not any(module.training for module in net.patch_backbone.modules())
        batch = load(files)
        prediction = net(thumbnails(batch), batch, return_attention=True)
        optimizer.zero_grad()
        JSMALoss(alpha=0.1 if make is tiny_net else 0.0)(prediction, torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    same = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"spacings"} | {name for name in before if name.startswith("patch_backbone.")}
    assert not any(parameter.requires_grad for parameter in net.patch_backbone.parameters())  # as DDP wants to know


@each_net
def test_gradients_of_all_else_are_those_of_a_trained_f(make, files):
    found = {}
    for freeze in (False, True):
        net = (
            make(freeze_patch_backbone=freeze, num_patches=31)
            if make is tiny_net
            else make(freeze_patch_backbone=freeze)
        )
        batch = load(files)
        net.train()(thumbnails(batch), batch).square().sum().backward()
        found[freeze] = {n: p.grad for n, p in net.named_parameters() if not n.startswith("patch_backbone.")}
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[True].items():
        torch.testing.assert_close(gradient, found[False][name])


@pytest.mark.parametrize("freeze", [False, True])
def test_no_graph_is_kept_for_a_frozen_f(freeze, files):
    """In chunks, all patches pass twice where f learns: forth, and again on the way back."""
    net, batch = mil_net(freeze_patch_backbone=freeze, chunk_size=8), load(files)
    with counted(net) as passes:
        net.train()(thumbnails(batch), batch).sum().backward()
    assert sum(passes) == sum(CELLS) * (1 if freeze else 2)


def test_what_cannot_be(tmp_path):
    for make in NETS.values():
        with pytest.raises(ValueError, match=r"feature_cache '.*' keeps what does not change, but f is being trained"):
            make(feature_cache=tmp_path)
    with pytest.raises(ValueError, match="freeze_patch_backbone would freeze h too"):
        tiny_net(
            thumbnail_backbone=ConvBackbone(), patch_backbone=None, shared_backbone=True, freeze_patch_backbone=True
        )


# --------------------------------------------------------------------------------------------------------- the cache


@pytest.mark.parametrize("call", [{}, MANY, {"num_patches": 2}])
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
    mil.patch_backbone.load_state_dict(ours.patch_backbone.state_dict())
    assert ask(mil, load(files))[1] == sum(CELLS)
    assert ask(ours, load(files), **MANY)[1] == 0


def test_certified_stopping_reads_what_is_not_known(files, tmp_path):
    options = {"feature_norm": "l2", "learning_rule": "leave_one_out"}
    call = {"num_patches": "certified", "max_patches": 5, "return_attention": True}
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


# ------------------------------------------------------------------------------------------------- never a wrong hit


def perturbed(net: PatchNetwork, change: Callable[[PatchNetwork], object]) -> PatchNetwork:
    with torch.no_grad():
        change(net)
    return net.eval()


ENCODERS = {
    "a weight": lambda net: net.patch_backbone.model[0].weight[0, 0, 0, 0].add_(0.5),
    "data": lambda net: setattr(net.patch_backbone.model[3].bias, "data", net.patch_backbone.model[3].bias + 1),
    "a buffer": lambda net: net.patch_backbone.mean.add_(0.1),
    "statistics": lambda net: net.patch_backbone.model[1].running_mean.add_(1.0),
    "loaded": lambda net: net.patch_backbone.load_state_dict(
        {name: value + 0.1 for name, value in net.patch_backbone.state_dict().items()}
    ),
    "another": lambda net: setattr(net, "patch_backbone", mil_net().patch_backbone),
    "a layer": lambda net: net.patch_backbone.model.__setitem__(2, nn.SiLU()),
    "the norm": lambda net: setattr(net, "feature_norm", "l2"),
}


@pytest.mark.parametrize("change", ENCODERS.values(), ids=ENCODERS)
def test_another_encoder_is_not_taken_for_this_one(change, files, tmp_path):
    def make(folder: Path | None) -> PatchNetwork:
        return frozen(mil_net, folder, patch_backbone=backbone_of_statistics())

    net = make(tmp_path / "f")
    before, _ = ask(net, load(files))
    reference, _ = ask(perturbed(make(None), change), load(files))
    assert not torch.allclose(before, reference)
    for changed in (perturbed(net, change), perturbed(make(tmp_path / "f"), change)):  # in this run, in the next
        after, encoded = ask(changed, load(files))
        assert torch.equal(after, reference)
        assert encoded == (sum(CELLS) if changed is net else 0)
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
