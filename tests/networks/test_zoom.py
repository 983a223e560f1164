# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""ZoomNet on real pyramids: the region network as it was, nothing read off the paths, faults that name a slide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pyramid_cases import LevelsReader, in_blocks, noise
from tiny_networks import MAGNIFICATIONS, PATCH, pictures, tiny_net
from tiny_zoom import REGION, SLIDES, look, slide, slides_of, stage, zoom_net

from monai_jsma.data import NotFiniteError, PatchError, Pyramid, PyramidBatch
from monai_jsma.geometry import Box
from monai_jsma.handlers import NumPatchesScheduler
from monai_jsma.inferers import JSMAInferer
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import (
    AllPatches,
    Certified,
    Confident,
    Draws,
    LeaveOneOut,
    Pathwise,
    Prefix,
    TopK,
    ZoomNet,
    make_parameter_groups,
    tissue_log_prior,
)
from monai_jsma.zoom_geometry import TissueMap

# ------------------------------------------------------------------------------------------- the network of a region


def test_weights_of_a_region_network_load_and_mean_the_same():
    trained = tiny_net(class_names=["a", "b", "c"])
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    net = zoom_net(class_names=["a", "b", "c"])
    net.load_region_weights({"model": trained.state_dict()})
    for name, value in trained.state_dict().items():
        assert torch.equal(net.region_network.state_dict()[name], value)
    unnamed = zoom_net()
    unnamed.load_region_weights(trained.state_dict())
    assert unnamed.class_names == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"trained with the classes \['a', 'b', 'c'\], but .* has \['c', 'b', 'a'\]"):
        zoom_net(class_names=["c", "b", "a"]).load_region_weights(trained.state_dict())
    with pytest.raises(ValueError, match="trained with magnifications of"):
        net.load_region_weights(tiny_net(magnifications=(4.0, 2.0)).state_dict())


@torch.no_grad()
@pytest.mark.parametrize("sampler", [AllPatches(), TopK(5), Certified(6, chunk=2)], ids=repr)
def test_a_slide_of_one_region_is_what_the_region_network_sees(sampler):
    net = zoom_net(stage(200), feature_norm="l2").eval()
    slides = slides_of((60, 45), (33, 70))
    ours = look(net, slides, sampler=sampler)
    region = net.region_network
    theirs = region(slides.thumbnails(region.thumbnail_size), slides, return_attention=True, sampler=sampler)
    for key in ("logits", "weights", "log_prior"):
        torch.testing.assert_close(ours[key], theirs[key])
    read = ours["weights"] > 0
    assert torch.equal(ours["cells"][read], theirs["cells"][read])
    assert ours["attention"].tolist() == [[1.0], [1.0]]
    assert ours["regions"].unique().tolist() == [0]


@torch.no_grad()
def test_whole_slides_as_tensors_are_zoomed_into():
    net = zoom_net().eval()
    images = torch.stack(pictures((72, 60), (72, 60)))
    slides = PyramidBatch(slide(image.permute(1, 2, 0).numpy()) for image in images)
    alone = net(images, sampler=AllPatches())
    with_pyramids = look(net, slides, sampler=AllPatches())["logits"]
    assert alone.shape == net(images).shape == (2, 3)
    torch.testing.assert_close(alone, with_pyramids, rtol=0, atol=0.05)  # thumbnails are rounded to uint8


@torch.no_grad()
@pytest.mark.parametrize("sampler", [AllPatches(), TopK(5), Certified(9)], ids=repr)
@pytest.mark.parametrize("stages", [1, 2])
def test_slides_of_a_batch_are_answered_as_alone(sampler, stages):
    zooms = [stage()] if stages == 1 else [stage(60), stage()]
    net = zoom_net(*zooms, feature_norm="l2").eval()
    slides = slides_of(*SLIDES)
    together = look(net, slides, sampler=sampler)
    for i in range(len(slides)):
        alone = look(net, PyramidBatch([slides[i]]), sampler=sampler)
        torch.testing.assert_close(together["logits"][i], alone["logits"][0], rtol=1e-4, atol=1e-5)
        read = together["weights"][i] > 0
        assert together["cells"][i][read].tolist() == alone["cells"][0].tolist()
        assert together["regions"][i][read].tolist() == alone["regions"][0].tolist()
        assert together["num_regions"][i] == alone["num_regions"][0]


@torch.no_grad()
def test_seeded_draws_do_not_depend_on_the_batch():
    net = zoom_net().eval()
    slides = slides_of(*SLIDES)
    inferer = JSMAInferer(Draws(3, 4), seed=5)
    thumbnails = slides.thumbnails(net.thumbnail_size)
    together = inferer(thumbnails, net, pyramid=slides, return_attention=True)
    alone = inferer(thumbnails[1:2], net, pyramid=PyramidBatch([slides[1]]), return_attention=True)
    torch.testing.assert_close(together["logits"][1], alone["logits"][0])
    assert together["regions"].shape == (3, 12, 1)


# --------------------------------------------------------------------------------------------------------- what is read


class CountingBatch(PyramidBatch):
    """Counts thumbnails of regions and patches."""

    thumbnails_read = 0
    patches_read = 0

    def regions(self, images, regions, region_size):
        found = CountingBatch(super().regions(images, regions, region_size))
        found.root = getattr(self, "root", self)
        return found

    def thumbnails(self, size):
        if hasattr(self, "root"):
            self.root.thumbnails_read += len(self)
        return super().thumbnails(size)

    def read(self, images, cells):
        self.root.patches_read += len(cells)
        return super().read(images, cells)


@pytest.mark.parametrize("k", [2, 7])
@pytest.mark.parametrize("stages", [1, 2])
def test_training_reads_at_most_a_thumbnail_a_stage_and_a_patch_for_each_path(k, stages):
    zooms = [stage()] if stages == 1 else [stage(60), stage()]
    net = zoom_net(*zooms, sampler=LeaveOneOut(k))
    slides = CountingBatch(slides_of((240, 200), (480, 400)))
    output = look(net, slides)
    paths = torch.cat((output["regions"], output["cells"][..., None]), dim=2)
    different = [torch.unique(paths[i][:, : depth + 1], dim=0).shape[0] for i in (0, 1) for depth in range(stages)]
    assert slides.thumbnails_read == sum(different) == output["num_regions"].sum() <= 2 * k * stages
    assert slides.patches_read == sum(torch.unique(path, dim=0).shape[0] for path in paths) <= 2 * k


@torch.no_grad()
def test_nothing_outside_the_drawn_paths_is_decoded():
    net = zoom_net().eval()
    reader = LevelsReader(in_blocks(480, 400, (2, 4)))
    whole = Pyramid(reader, mpp=1.0, magnifications=MAGNIFICATIONS, patch_size=PATCH)
    slides = PyramidBatch([whole])
    thumbnails = slides.thumbnails(net.thumbnail_size)
    reader.windows.clear()
    output = net(thumbnails, slides, return_attention=True, sampler=TopK(6))
    regions = {int(region) for region in output["regions"].flatten()}
    boxes = [whole.region(region, REGION) for region in regions]
    assert len(reader.windows) == output["num_regions"].item() + 6
    looked_at = 0
    for level, row, col, height, width in reader.windows:
        scale = 2**level
        inside = [
            b.origin[0] <= row * scale
            and (row + height) * scale <= b.origin[0] + REGION
            and b.origin[1] <= col * scale
            and (col + width) * scale <= b.origin[1] + REGION
            for b in boxes
        ]
        looked_at += any(inside)
    unread_regions = output["num_regions"].item() - len(regions)
    assert looked_at == len(reader.windows) - unread_regions
    assert len(regions) < 100


@torch.no_grad()
def test_regions_without_tissue_are_never_drawn():
    mask = np.zeros((120, 100), bool)
    mask[30:60, 50:70] = True
    tissue = TissueMap(mask, Box(0, 0, 120, 100))
    net = zoom_net(sampler=LeaveOneOut(50))
    slides = PyramidBatch([slide(noise(120, 100)).with_tissue(tissue)])
    output = look(net, slides)
    shares = slides[0].tissue_shares(REGION)
    assert 0 < (shares > 0).sum() < len(shares)
    assert (shares[output["regions"][0, :, 0]] > 0).all()
    assert output["attention"][0][torch.from_numpy(shares == 0)].sum() == 0
    assert torch.isfinite(JSMALoss(0.1, "kl")(output, torch.tensor([1])))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_prior_is_the_share_of_tissue_to_a_power(power):
    prior = tissue_log_prior([[0.2, 0.0, 0.8], [0.0, 0.0]], power).exp()
    weights = torch.tensor([0.2**power, 0.0, 0.8**power], dtype=torch.float64)
    torch.testing.assert_close(prior[0], weights / weights.sum())
    assert prior[1].tolist() == [0.5, 0.5, 0.0]
    assert tissue_log_prior([], power).shape == (0, 1)


def test_masked_regions_leave_no_nan_in_a_gradient():
    mask = np.zeros((120, 100), bool)
    mask[:24, :24] = True
    net = zoom_net()
    slides = PyramidBatch(
        [slide(noise(120, 100)).with_tissue(TissueMap(mask, Box(0, 0, 120, 100))), slide(noise(20, 12))]
    )
    JSMALoss(0.1, "kl")(look(net, slides), torch.tensor([1, 0])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@torch.no_grad()
def test_a_frozen_stage_keeps_the_maps_of_slides(tmp_path):
    slides = PyramidBatch([slide(noise(120, 100), identity="a"), slide(noise(48, 75), identity="b")])
    torch.manual_seed(0)
    expected = look(zoom_net(stage(frozen=True)).eval(), slides, sampler=AllPatches())["logits"]
    encoded = []
    for _ in range(2):
        torch.manual_seed(0)
        net = zoom_net(stage(frozen=True, thumbnail_cache=tmp_path)).eval()
        net.stages[0].encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
        assert torch.equal(look(net, slides, sampler=AllPatches())["logits"], expected)
    assert encoded == [1, 2, 1]  # one tells the size of a map; in the second run no other is encoded
    net.unfreeze()
    assert net.stages[0].thumbnail_cache is None
    assert stage(thumbnail_cache=tmp_path).thumbnail_cache is None


def test_features_that_were_kept_of_regions_serve_the_slide(tmp_path):
    options = {"feature_norm": "l2", "frozen": True, "feature_cache": tmp_path}
    net = zoom_net(**options).eval()
    pixels = noise(120, 100)
    whole = slide(pixels, identity="a")
    regions = [
        slide(pixels, identity="a", origin=part.origin, size=part.stored_geometry.size)
        for part in (whole.region(i, REGION) for i in range(25))
    ]
    batch = PyramidBatch(regions)
    encoded = []
    net.patch_encoder.backbone.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    with torch.no_grad():
        region = net.region_network
        region(batch.thumbnails(region.thumbnail_size), batch, sampler=AllPatches())
        assert sum(encoded) == sum(part.geometry.num_cells for part in regions)
        encoded.clear()
        look(net, PyramidBatch([whole]), sampler=AllPatches())
        assert encoded == []


@torch.no_grad()
def test_maps_of_a_frozen_region_encoder_are_kept(tmp_path):
    net = zoom_net(freeze_thumbnail_encoder=True, thumbnail_cache=tmp_path).eval()
    slides = PyramidBatch([slide(noise(120, 100), identity="a")])
    seen = []
    net.thumbnail_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    first = look(net, slides, sampler=AllPatches())
    assert sum(seen) >= 25
    seen.clear()
    again = look(net, slides, sampler=AllPatches())
    assert seen == []
    torch.testing.assert_close(again["logits"], first["logits"])


# ------------------------------------------------------------------------------------------------- training, as ever


def test_a_start_by_the_prior_teaches_the_regions_and_not_the_root():
    net = zoom_net(sampler=LeaveOneOut(200))
    net.zooms_by_prior = True
    slides = slides_of((120, 100))
    output = look(net, slides)
    assert output["attention"].tolist() == output["attention_prior"].tolist()
    drawn = torch.bincount(output["regions"].flatten(), minlength=25)
    assert (drawn > 0).sum() > 20
    JSMALoss(0.1, "kl")(output, torch.tensor([1])).backward()
    for parameter in net.stages.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() == 0
    assert all(p.grad.abs().max() > 0 for p in net.region_network.parameters())


@pytest.mark.parametrize("norm", [None, "standardized"])
def test_encoders_may_be_frozen_and_unfrozen(norm):
    net = zoom_net(stage(frozen=True, thumbnail_norm=norm), frozen=True, freeze_thumbnail_encoder=True)
    assert net.freeze_thumbnail_encoder
    slides = slides_of((120, 100))
    JSMALoss(0.1, "kl")(look(net, slides), torch.tensor([1])).backward()
    learned = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, parameter in net.named_parameters() if "encoder" not in name}
    assert not net.stages[0].encoder.training
    net.unfreeze()
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.stages[0].encoder.training


def test_encoders_have_their_own_learning_rates():
    net = zoom_net()
    rate_of = {}
    for group in make_parameter_groups(net, lr=1.0, lr_thumbnail_backbone=0.1, lr_patch_backbone=0.01):
        rate_of |= {id(parameter): group["lr"] for parameter in group["params"]}
    for name, parameter in net.named_parameters():
        kind = {"patch_encoder": 0.01, "thumbnail_encoder": 0.1, "stages.0.encoder": 0.1}
        expected = next((rate for part, rate in kind.items() if part in name), 1.0)
        assert rate_of[id(parameter)] == expected, name


def test_more_paths_in_the_first_epochs():
    net = zoom_net()
    NumPatchesScheduler(net, 9, epochs=1)(type("Engine", (), {"state": type("State", (), {"epoch": 1})}))
    assert net.sampler == replace(LeaveOneOut(4), k=9)
    assert net.evaluation_sampler == TopK(9)


@pytest.mark.parametrize("training", [True, False])
def test_mixed_precision_gives_finite_numbers(training):
    net = zoom_net(feature_norm="l2").train(training)
    slides = slides_of(*SLIDES)
    with torch.autocast("cpu", torch.bfloat16):
        output = look(net, slides)
    assert output["log_attention"].dtype == torch.float32
    assert torch.isfinite(output["logits"]).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_no_slides_gives_no_logits(training):
    net = zoom_net(feature_norm="l2").train(training)
    for sampler in (
        (LeaveOneOut(3), AllPatches()) if training else (TopK(3), AllPatches(), Certified(), Confident(), Draws(2, 2))
    ):
        output = net(torch.zeros(0, 3, 16, 16), PyramidBatch(), return_attention=True, sampler=sampler)
        assert output["logits"].shape == (0, 3)
        assert len(output["regions"]) == len(output["cells"]) == 0


# -------------------------------------------------------------------------------------------------------------- errors


class Damaged(LevelsReader):
    """A slide whose lower right corner cannot be read."""

    def _read(self, level, location, size):
        scale = 2**level
        if (location[0] + size[0]) * scale > 90:
            raise ValueError("damaged at the bottom")
        return super()._read(level, location, size)


@torch.no_grad()
def test_a_region_that_cannot_be_read_is_a_fault_of_its_slide():
    net = zoom_net().eval()
    levels = in_blocks(120, 100, (2, 4))
    damaged = Pyramid(Damaged(levels), mpp=1.0, magnifications=MAGNIFICATIONS, patch_size=PATCH)
    slides = PyramidBatch([slide(noise(48, 40)), slide(noise(48, 40)), damaged])
    thumbnails = torch.zeros(3, 3, 16, 16)
    with pytest.raises(PatchError, match="damaged at the bottom") as caught:
        net(thumbnails, slides, sampler=AllPatches())
    assert set(caught.value.errors) == {2}


@torch.no_grad()
@pytest.mark.parametrize("part", ["root", "region", "patch"])
def test_numbers_that_are_none_name_the_slide(part):
    net = zoom_net().eval()
    slides = PyramidBatch([slide(noise(48, 40), path="good.tif"), slide(noise(48, 40, seed=1), path="bad.tif")])
    thumbnails = slides.thumbnails((16, 16)).float() / 255
    if part == "root":
        thumbnails[1] = float("nan")
    elif part == "region":
        attend = net.region_network.attend
        bad = torch.tensor([[False]] * 4 + [[True]] * 4)
        net.region_network.attend = lambda t, g, **_: attend(t, g).masked_fill(bad, float("nan"))
    else:
        encode = net.region_network.patch_encoder.encode_cells
        bag = torch.tensor([1.0, float("nan")])[:, None, None]
        net.region_network.patch_encoder.encode_cells = lambda *args, **options: encode(*args, **options) * bag
    with pytest.raises(NotFiniteError, match=r"bad\.tif") as caught:
        net(thumbnails, slides, sampler=AllPatches())
    assert set(caught.value.errors) == {1}


@pytest.mark.parametrize("sampler", [Prefix(3), Pathwise(3), TopK(3)], ids=repr)
def test_samplers_from_which_a_tree_cannot_learn_are_refused(sampler):
    with pytest.raises(ValueError, match=r"cannot learn: train ZoomNet with LeaveOneOut"):
        zoom_net(sampler=sampler)
    with pytest.raises(ValueError, match=r"cannot learn: train ZoomNet with LeaveOneOut"):
        look(zoom_net(), slides_of((48, 40)), sampler=sampler)


@pytest.mark.parametrize("sampler", [Prefix(3), Pathwise(3), Draws(Prefix(3), 2)], ids=repr)
def test_samplers_that_need_all_cells_are_refused(sampler):
    with pytest.raises(ValueError, match=r"which a slide has too many of: (train|use)"):
        look(zoom_net().eval(), slides_of((48, 40)), sampler=sampler)


def test_networks_that_are_no_zoom_are_refused():
    blind = tiny_net(thumbnail_encoder=None)
    with pytest.raises(ValueError, match="has no thumbnail encoder"):
        ZoomNet(blind, [stage()])
    with pytest.raises(ValueError, match="at least one ZoomStage"):
        ZoomNet(tiny_net(), [])
    with pytest.raises(ValueError, match="lie in those of the stage before"):
        zoom_net(stage(20), stage(40))
    with pytest.raises(ValueError, match="region_size must be a whole number of pixels"):
        stage(20.5)
    with pytest.raises(ValueError, match=r"tissue_power -1 must be at least 0"):
        stage(tissue_power=-1)


def test_settings_travel_with_the_weights():
    net = zoom_net(class_names=["a", "b", "c"])
    assert net.class_names == ["a", "b", "c"]
    unnamed = zoom_net()
    unnamed.load_state_dict(net.state_dict())
    assert unnamed.class_names == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"trained with zoom_0 = .*'region_size': 24"):
        zoom_net(stage(48)).load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match="trained with the classes"):
        zoom_net(class_names=["c", "b", "a"]).load_state_dict(net.state_dict())


def test_a_map_that_is_coarser_than_the_regions_is_told(caplog):
    net = zoom_net(stage(4), sampler=LeaveOneOut(2))
    with caplog.at_level("WARNING"):
        look(net, slides_of((120, 100)))
    assert "the zoom looks at 30 x 25 regions through" in caplog.text
