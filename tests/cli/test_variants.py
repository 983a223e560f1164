# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Variants: what defines one is neither replaced by a value nor by an overlay for all of them."""

from __future__ import annotations

import json

import pytest
from bundle_runs import BUNDLE, BUNDLES, VARIANTS, copy_bundle

from monai_jsma.cli.bundles import find_configs, read_config
from monai_jsma.cli.variants import Variant, can_be_certified, make_variants
from monai_jsma.networks import AllPatches, LeaveOneOut, Pathwise, TopK


def content(variant: Variant, name: str, bundle=BUNDLE):
    return read_config(bundle, variant.configs, variant.values).get_parsed_content(name)


@pytest.mark.parametrize(
    ("variant", "value"),
    [
        ("random_patches", "thumbnail_backbone"),
        ("random_patches", "sampler"),
        ("random_patches", "sampler#k"),
        ("random_patches", "sampler::estimator"),
        ("random_patches", "inference_sampler"),
        ("balanced_random_patches", "level_prior"),
        ("all_patches", "sampler"),
        ("thumbnail_only", "magnifications"),
        ("whole_image", "patch_size"),
        ("attention_mil", "network_def#dropout"),
        ("mean_features", "training"),
        ("paper", "regularizer"),
        ("all_patches+single", "sampler"),
    ],
)
def test_a_value_that_the_overlay_sets_is_refused(variant, value):
    with pytest.raises(ValueError, match=f"--set {value.replace('::', '#')}: the overlay '\\w+' sets ") as raised:
        make_variants(BUNDLE, ["multi", variant], values={value: 1})
    assert f"the variant '{variant}' would no longer be what it is called" in str(raised.value)
    assert "give that to --config" in str(raised.value)


def test_what_a_part_of_the_overlay_sets_is_refused_whole(tmp_path):
    bundle = copy_bundle(tmp_path)
    (tmp_path / "variants" / "mine.json").write_text(json.dumps({"loss#alpha": 0.0}))
    with pytest.raises(ValueError, match="--set loss: the overlay 'mine' sets 'loss#alpha'"):
        make_variants(bundle, ["mine"], values={"loss": "x"})


@pytest.mark.parametrize(
    ("variant", "value", "own"),
    [
        ("random_patches", "network_def#thumbnail_encoder", "thumbnail_backbone"),
        ("random_patches", "network_def", "thumbnail_backbone"),
        ("all_patches", "network_def#sampler", "sampler"),
        ("all_patches", "validate#inferer#sampler", "inference_sampler"),
        ("single", "network_def#magnifications", "magnifications"),
        ("single", "train#deterministic_transforms", "magnifications"),
    ],
)
def test_a_value_that_goes_past_the_setting_is_refused(variant, value, own):
    message = f"{value}: there the bundle uses '{own}', which defines the variant '{variant}'"
    with pytest.raises(ValueError, match=f"--set {message}"):
        make_variants(BUNDLE, [variant], values={value: "resnet18"})


def test_an_overlay_for_all_that_goes_past_the_setting_is_refused(tmp_path):
    bundle = copy_bundle(tmp_path)
    overlay = tmp_path / "variants" / "mine.json"
    overlay.write_text(json.dumps({"network_def#thumbnail_encoder": "resnet18"}))
    assert make_variants(bundle, ["multi", "all_patches"], configs=["mine"])
    with pytest.raises(ValueError, match="overlay 'mine', network_def#thumbnail_encoder: there the bundle uses"):
        make_variants(bundle, ["multi", "random_patches"], configs=["mine"])

    overlay.write_text(json.dumps({"network_def#thumbnail_encoder": "@thumbnail_backbone"}))
    assert make_variants(bundle, ["random_patches"], configs=["mine"])


def test_the_variant_wins_over_overlays_for_all(tmp_path):
    """Whatever they set, by whole names and by parts; what the variant leaves open is theirs."""
    bundle = copy_bundle(tmp_path)
    pretrained = {
        "thumbnail_backbone": "test_resnet",
        "patch_backbone": "test_resnet",
        "weights": None,
        "level_prior": "balanced",
        "num_patches": 3,
        "sampler": {"_target_": "monai_jsma.networks.LeaveOneOut", "k": 7},
        "inference_sampler#k": 9,
        "alpha": 0.3,
        "feature_norm": "l2",
    }
    (tmp_path / "variants" / "pretrained_here.json").write_text(json.dumps(pretrained))
    names = ["multi", "random_patches", "balanced_random_patches", "all_patches", "paper", "mean_features", "single"]
    made = make_variants(bundle, names, configs=["pretrained_here"])
    by_name = {variant.name: variant for variant in made}

    def of(name, setting):
        return content(by_name[name], setting, bundle)

    samplers = {name: (of(name, "sampler"), of(name, "inference_sampler")) for name in by_name}
    random = Pathwise(3, estimator="normalized")
    assert samplers == {
        "multi": (LeaveOneOut(7), TopK(9)),
        "random_patches": (random, random),
        "balanced_random_patches": (LeaveOneOut(3), Pathwise(3, estimator="systematic")),
        "all_patches": (AllPatches(), AllPatches()),
        "paper": (Pathwise(3), TopK(3, normalize=False)),
        "mean_features": (AllPatches(), AllPatches()),
        **dict.fromkeys(["50X", "100X", "200X"], (LeaveOneOut(7), TopK(9))),
    }
    assert [of(name, "thumbnail_backbone") for name in ("multi", "all_patches", "paper")] == ["test_resnet"] * 3
    assert [of(name, "thumbnail_backbone") for name in ("random_patches", "mean_features")] == [None, None]
    assert of("paper", "feature_norm") is None
    assert {of(name, "patch_backbone") for name in by_name} == {"test_resnet"}
    assert len(of("100X", "network_def").magnifications) == 1


def test_what_a_variant_leaves_open_may_be_set():
    values = {"num_patches": "8", "patch_backbone": "test_resnet", "epochs": "2", "weights": "none"}
    for name in ("random_patches", "all_patches", "balanced_random_patches", "mean_features", "thumbnail_only"):
        (variant,) = make_variants(BUNDLE, [name], values=values)
        assert content(variant, "patch_backbone") == "test_resnet"
    (variant,) = make_variants(BUNDLE, ["all_patches"], values=values)
    assert content(variant, "sampler") == content(variant, "inference_sampler") == AllPatches()


def test_what_an_overlay_brings_along_may_be_set():
    """It is for the variants that have it; what defines them, and what others know, stays refused."""
    values = {"zoom_region_size": "512", "epochs": "3"}
    flat, zoom = make_variants(BUNDLE, ["multi", "zoom"], values=values)
    assert flat.values == {"epochs": "3"}
    assert zoom.values == values
    assert content(zoom, "zoom_region_size") == 512
    assert content(zoom, "network_def#stages#0#region_size") == 512
    (both,) = make_variants(BUNDLE, ["zoom+all_patches"], values={"tissue_power": "0.5"})
    assert content(both, "tissue_power") == 0.5
    for value in ("zoom", "network_def", "network_def#stages", "thumbnail_size"):
        with pytest.raises(ValueError, match=f"--set {value}: the overlay 'zoom' sets"):
            make_variants(BUNDLE, ["zoom"], values={value: "1"})


def test_what_an_overlay_changes_of_another_defines_the_variant(tmp_path):
    bundle = copy_bundle(tmp_path)
    (tmp_path / "variants" / "blind.json").write_text(json.dumps({"slide_backbone": None}))
    for names, configs in ((["zoom+blind"], []), (["blind"], ["zoom"])):
        with pytest.raises(ValueError, match="--set slide_backbone: the overlay 'blind' sets 'slide_backbone'"):
            make_variants(bundle, names, configs=configs, values={"slide_backbone": "resnet18"})


def test_overlays_are_joined_and_the_last_wins():
    made = make_variants(BUNDLE, ["single+all_patches", "random_patches+draws", "shuffled_labels+paper"])
    by_name = {variant.name: variant for variant in made}
    assert list(by_name) == [
        "50X+all_patches", "100X+all_patches", "200X+all_patches", "random_patches+draws", "shuffled_labels+paper",
    ]  # fmt: skip
    assert content(by_name["100X+all_patches"], "magnifications") == [pytest.approx(0.84)]
    assert content(by_name["100X+all_patches"], "sampler") == AllPatches()
    assert content(by_name["random_patches+draws"], "inference_sampler").sampler == Pathwise(5, estimator="normalized")
    assert by_name["shuffled_labels+paper"].shuffled
    assert by_name["shuffled_labels+paper"].configs == ("paper",)


def test_labels_are_certain_with_attention_and_features_of_one_length():
    names = [path.stem for path in VARIANTS.glob("*.json") if find_configs(BUNDLE, path.stem)]
    certain = {name for name in names if can_be_certified(BUNDLE, make_variants(BUNDLE, [name])[0])}
    assert {"aligned", "all_patches", "draws", "frozen", "single_magnification"} <= certain
    without = {"attention_mil", "mean_features", "paper", "random_patches", "balanced_random_patches", "whole_image"}
    assert not certain & without


@pytest.mark.parametrize("shipped", BUNDLES.values(), ids=BUNDLES)
def test_every_control_goes_with_the_recipe(shipped):
    """With its encoder, and with all that makes it a control."""
    names = ["multi", "random_patches", "balanced_random_patches", "all_patches", "attention_mil", "whole_image"]
    names += ["paper", "mean_features", "thumbnail_only"]
    made = {variant.name: variant for variant in make_variants(shipped.folder, names, configs=["pretrained"])}
    networks = {name: content(variant, "network_def", shipped.folder) for name, variant in made.items()}
    encoders = {network.patch_encoder.backbone.name for network in networks.values()}
    assert encoders == {"tf_efficientnet_lite0"}
    without_thumbnail = {name for name in networks if getattr(networks[name], "thumbnail_encoder", None) is None}
    assert without_thumbnail == set(names) - {"multi", "all_patches", "paper"}
    assert networks["paper"].sampler == Pathwise(10)
    assert networks["balanced_random_patches"].attention.level_prior == "balanced"
    assert content(made["whole_image"], "patch_size", shipped.folder) == 448
