# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Encoders by short name, by timm's own keywords, and from folders: layers, pooling, input, and the ways out.

The models are too large for tests, and gated. So each is built without memory, and stand-ins of the same form, with the
same keywords and a few narrow layers, are compared with timm and with what the library transformers computed.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file

from monai_jsma.networks import AttentionMIL, JSMANet, PatchEncoder, build_backbone, encoder_building, encoder_cards
from monai_jsma.networks.encoder_cards import ENCODERS, FAMILIES, suggest_encoders
from monai_jsma.networks.encoder_spec import find_layers, parse_encoder
from monai_jsma.networks.transformers_keys import build_from_config, convert_transformers_keys

timm = importlib.import_module("timm")  # only now: monai_jsma.networks makes it importable

SAMPLES = Path(__file__).parents[1] / "samples" / "transformers"
# What makes a giant small; the size of its tokens and all its other keywords stay.
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 56}


def list_known():
    return [card for card in ENCODERS.values() if card.architecture is not None]


def shrink(monkeypatch, name):
    """The card of a model with narrow layers, in the place of its own."""
    card = ENCODERS[name]
    size = 64 if card.options.get("patch_size", 14) == 16 or "patch16" in str(card.architecture) else 56
    options = {**card.options, **SMALL, "img_size": size}
    num_features = 16 if card.pooling == "attention" else 48 * (1 + (card.pooling == "token_mean"))
    small = replace(card, options=options, num_features=num_features, size=size, resize=card.resize and size + 8)
    monkeypatch.setattr(encoder_cards, "ENCODERS", {**ENCODERS, name: small})
    return small


def make_reference(card):
    """timm's model of the card, its last tokens, and random weights that are not all alike."""
    torch.manual_seed(0)
    options = find_layers(card.options)
    model = timm.create_model(card.architecture, num_classes=0, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def normalize(images, card):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in card.normalization)
    return (images - mean) / std


# --------------------------------------------------------------------------------------------------------------- table


@pytest.mark.parametrize("card", list_known(), ids=lambda card: card.name)
def test_every_entry_builds_and_gives_what_it_states(card):
    """Without memory: layers, size of the input, and the length of the feature."""
    with torch.device("meta"):
        backbone = build_backbone(card.name, None, pooled=True)
        features = backbone.model(torch.empty(1, 3, card.size, card.size))
    assert features.shape == (1, card.num_features)
    assert backbone.num_features == card.num_features


# Numbers of weights that the authors state, in millions.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("uni2-h", 681), ("virchow", 631), ("virchow2", 631), ("h-optimus-0", 1135), ("prov-gigapath", 1135)],
)
def test_the_number_of_weights_is_the_published_one(name, millions):
    with torch.device("meta"):
        backbone = build_backbone(name, None, pooled=True)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) == millions


def test_the_table_is_whole():
    assert {"uni2-h", "virchow2", "h-optimus-1", "prov-gigapath", "phikon-v2", "conch"} <= set(ENCODERS)
    assert set(FAMILIES) == {"hibou", "kaiko", "lunit-dino"}
    assert set(FAMILIES.values()) <= set(ENCODERS)
    for name, card in ENCODERS.items():
        assert name == card.name
        assert card.license
        assert card.source
        assert card.mpp


# ------------------------------------------------------------------------------------------------------------ stand-ins


@pytest.mark.parametrize("name", ["uni", "uni2-h", "virchow", "virchow2", "h-optimus-1", "prov-gigapath"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_stand_in_gives_the_feature_of_its_card(monkeypatch, tmp_path, name, file):
    """Class token, or class token and mean of the patch tokens; registers belong to neither."""
    card = shrink(monkeypatch, name)
    model = make_reference(card)
    if file.endswith("safetensors"):
        save_file(model.state_dict(), tmp_path / file)
    else:
        torch.save(model.state_dict(), tmp_path / file)
    images = torch.rand(2, 3, card.size, card.size)
    with torch.no_grad():
        tokens = model.forward_features(normalize(images, card))
        registers = card.options.get("reg_tokens", 4 if "reg4" in card.architecture else 0)
        expected = tokens[:, 0]
        if card.pooling == "token_mean":
            expected = torch.cat((tokens[:, 0], tokens[:, 1 + registers :].mean(dim=1)), dim=1)
        for weights in (str(tmp_path / file), str(tmp_path)):
            backbone = build_backbone(name, weights, pooled=True).eval()
            torch.testing.assert_close(backbone(images)[:, :, 0, 0], expected)


def test_the_map_of_a_stand_in_is_that_of_its_patch_tokens(monkeypatch, tmp_path):
    card = shrink(monkeypatch, "virchow2")
    model = make_reference(card)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = build_backbone("virchow2", str(tmp_path)).eval()
    images = torch.rand(1, 3, 56, 56)
    with torch.no_grad():
        tokens = model.forward_features(normalize(images, card))[0, 5:]
        maps = backbone(images)[0]
        wide = backbone(torch.rand(1, 3, 42, 84))
    for row in range(4):
        for col in range(4):
            torch.testing.assert_close(maps[:, row, col], tokens[4 * row + col])
    assert wide.shape == (1, 48, 3, 6)


def test_patches_of_another_size_are_resized_as_the_card_has_it(monkeypatch):
    """As torchvision's Resize and CenterCrop; patches of the model's own size are left as they are."""
    for name in ("uni2-h", "prov-gigapath"):
        card = shrink(monkeypatch, name)
        backbone = build_backbone(name, None, pooled=True).eval()
        seen = []
        backbone.model.model.forward_features = lambda images, seen=seen: seen.append(images) or torch.zeros(1, 9, 48)
        own = torch.rand(1, 3, card.size, card.size)
        other = torch.rand(1, 3, 100, 100)
        backbone(own)
        backbone(other)
        torch.testing.assert_close(seen[0], normalize(own, card))
        side = card.resize or card.size
        expected = torch.nn.functional.interpolate(other, (side, side), mode=card.interpolation, antialias=True)
        start = (side - card.size) // 2
        expected = expected[:, :, start : start + card.size, start : start + card.size]
        torch.testing.assert_close(seen[1], normalize(expected, card), atol=1e-4, rtol=1e-4)


def test_conch_pools_by_attention(monkeypatch, tmp_path):
    """Of the three towers in its file the vision tower is taken, with its pooling for contrast: here step by step."""
    card = shrink(monkeypatch, "conch")
    trunk = make_reference(card)
    torch.manual_seed(1)
    width, features, heads = 48, 16, 8
    shapes = {
        "query": (1, features),
        "ln_q.weight": (features,),
        "ln_q.bias": (features,),
        "ln_k.weight": (width,),
        "ln_k.bias": (width,),
        "attn.q_proj_weight": (features, features),
        "attn.k_proj_weight": (features, width),
        "attn.v_proj_weight": (features, width),
        "attn.in_proj_bias": (3 * features,),
        "attn.out_proj.weight": (features, features),
        "attn.out_proj.bias": (features,),
    }
    pool = {key: torch.randn(shape) for key, shape in shapes.items()}
    norm = {"weight": torch.randn(features), "bias": torch.randn(features)}
    saved = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    saved |= {f"visual.attn_pool_contrast.{key}": value for key, value in pool.items()}
    saved |= {f"visual.ln_contrast.{key}": value for key, value in norm.items()}
    saved |= {"visual.proj_contrast": torch.zeros(features, features), "visual.ln_caption.weight": torch.zeros(3)}
    saved |= {"text.cls_emb": torch.zeros(3), "logit_scale": torch.zeros(())}
    torch.save(saved, tmp_path / "pytorch_model.bin")

    backbone = build_backbone("conch", str(tmp_path), pooled=True).eval()
    images = torch.rand(2, 3, card.size, card.size)
    with torch.no_grad():
        tokens = trunk.forward_features(normalize(images, card))
        layer_norm = torch.nn.functional.layer_norm
        tokens = layer_norm(tokens, (width,), pool["ln_k.weight"], pool["ln_k.bias"])
        query = layer_norm(pool["query"], (features,), pool["ln_q.weight"], pool["ln_q.bias"])
        q_bias, k_bias, v_bias = pool["attn.in_proj_bias"].chunk(3)
        queries = query @ pool["attn.q_proj_weight"].T + q_bias
        keys = tokens @ pool["attn.k_proj_weight"].T + k_bias
        values = tokens @ pool["attn.v_proj_weight"].T + v_bias
        pooled = []
        for head in range(heads):
            part = slice(2 * head, 2 * head + 2)
            scores = keys[:, :, part] @ queries[0, part] / 2**0.5
            pooled.append((scores.softmax(dim=1)[:, :, None] * values[:, :, part]).sum(dim=1))
        out = torch.cat(pooled, dim=1) @ pool["attn.out_proj.weight"].T + pool["attn.out_proj.bias"]
        expected = layer_norm(out, (features,), norm["weight"], norm["bias"])
        torch.testing.assert_close(backbone(images)[:, :, 0, 0], expected, atol=1e-4, rtol=1e-4)
        mean = build_backbone({"name": "conch", "pooling": "mean"}, str(tmp_path), pooled=True).eval()
        expected = trunk.forward_features(normalize(images, card))[:, 1:].mean(dim=1)
        torch.testing.assert_close(mean(images)[:, :, 0, 0], expected)
    del saved["visual.ln_contrast.bias"]
    torch.save(saved, tmp_path / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match=r"are not those of 'conch': 1 of 13 entries .* 'norm.bias'"):
        build_backbone("conch", str(tmp_path), pooled=True)


def test_a_file_of_another_model_is_refused(monkeypatch, tmp_path):
    """Without SwiGLU, or with another number of registers, the entries do not fit."""
    card = shrink(monkeypatch, "virchow2")
    options = {**card.options, "mlp_layer": "Mlp"}
    torch.save(make_reference(replace(card, options=options)).state_dict(), tmp_path / "mlp.pth")
    options = {**card.options, "reg_tokens": 2}
    torch.save(make_reference(replace(card, options=options)).state_dict(), tmp_path / "registers.pth")
    for file in ("mlp.pth", "registers.pth"):
        with pytest.raises(RuntimeError, match=f"{file}' are not those of 'virchow2'"):
            build_backbone("virchow2", str(tmp_path / file), pooled=True)
    with pytest.raises(FileNotFoundError, match="has none of model.safetensors, pytorch_model.bin"):
        build_backbone("virchow2", str(tmp_path), pooled=True)


# --------------------------------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("kind", ["vit", "dinov2_registers"])
def test_a_folder_of_transformers_gives_its_tokens(kind):
    """The samples were written by transformers 5.24: weights, and the tokens of two images of different size."""
    folder = SAMPLES / kind
    answer = load_file(folder / "answer.safetensors")
    image = torch.arange(3 * 32 * 32).mul(7919).remainder(256).view(1, 3, 32, 32) / 255
    larger = torch.nn.functional.pad(image, (0, 16, 0, 16))
    config = json.loads((folder / "config.json").read_text())
    saved = load_file(folder / "model.safetensors")
    registers = config.get("num_register_tokens", 0)
    for name, pixels in (("small", image), ("large", larger)):
        model = build_from_config(config, size=pixels.shape[2], source="sample").eval()
        model.load_state_dict(convert_transformers_keys(saved, model))
        with torch.no_grad():
            torch.testing.assert_close(model.forward_features((pixels - 0.5) / 0.5), answer[name])
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    encoder = {"name": f"local-dir:{folder}", "pooling": "token_mean", **half}
    backbone = build_backbone(encoder, "imagenet", pooled=True).eval()
    expected = torch.cat((answer["small"][:, 0], answer["small"][:, 1 + registers :].mean(dim=1)), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[:, :, 0, 0], expected)


def test_the_input_of_a_folder_of_transformers_is_stated_or_asked_for(tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((SAMPLES / "vit" / file).read_bytes())
    name = f"local-dir:{tmp_path}"
    with pytest.raises(ValueError, match=r"nothing states how its input is normalized .* give 'mean' and 'std'"):
        build_backbone(name, "imagenet", pooled=True)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    backbone = build_backbone(name, "imagenet", pooled=True)
    assert backbone.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert backbone.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    with pytest.raises(ValueError, match="describes a model of the kind 'swin'"):
        build_backbone(name, None, pooled=True)


# -------------------------------------------------------------------------------------------------- timm's own keywords


def save_local_dir(folder, options):
    """A folder as the hub has it, of a model whose layers its config.json cannot state."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "global_pool": "token",
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.7, 0.6, 0.5], "std": [0.2, 0.3, 0.1]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return model.eval()


def test_keywords_of_timm_stand_in_the_configuration(tmp_path):
    """As an object of JSON: layers by their names; the input is that of config.json unless it is given."""
    keywords = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "reg_tokens": 3, "embed_dim": 24, "depth": 2}
    keywords |= {"num_heads": 2, "img_size": 32}
    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    torch.manual_seed(0)
    model = save_local_dir(tmp_path, {**keywords, **layers})
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        mean = torch.tensor([0.7, 0.6, 0.5]).view(1, 3, 1, 1)
        std = torch.tensor([0.2, 0.3, 0.1]).view(1, 3, 1, 1)
        tokens = model.forward_features((images - mean) / std)
        expected = {"token": tokens[:, 0], "mean": tokens[:, 4:].mean(dim=1)}
        expected["token_mean"] = torch.cat(tuple(expected.values()), dim=1)
        expected[None] = tokens[:, 0]  # as the model itself has it
        for pooling, features in expected.items():
            encoder = {"name": f"local-dir:{tmp_path}", "pooling": pooling, **keywords}
            backbone = build_backbone(json.loads(json.dumps(encoder)), "imagenet", pooled=True).eval()
            torch.testing.assert_close(backbone(images)[:, :, 0, 0], features)
            again = build_backbone(encoder, str(tmp_path / "model.safetensors"), pooled=True).eval()
            torch.testing.assert_close(again(images)[:, :, 0, 0], features)
    half = build_backbone({**encoder, "mean": [0.5] * 3, "std": [0.5] * 3}, None, pooled=True)
    assert half.mean.flatten().tolist() == [0.5] * 3
    with pytest.raises(RuntimeError, match=r"could not be loaded|are not those of"):
        build_backbone({"name": f"local-dir:{tmp_path}", "img_size": 32}, "imagenet", pooled=True)


def test_a_network_loads_and_describes_what_it_was_given(monkeypatch, tmp_path):
    """Built without weights first, as a bundle does; the pooling belongs to what the weights state."""
    card = shrink(monkeypatch, "virchow2")
    save_file(make_reference(card).state_dict(), tmp_path / "model.safetensors")
    encoder = PatchEncoder({"name": "virchow2", "pooling": "token"}, frozen=True)
    assert encoder.num_features == 48
    net = AttentionMIL(2, [1.0], weights=None, patch_encoder=encoder, patch_size=56)
    net.load_weights(str(tmp_path))
    loaded = net.patch_encoder.backbone.state_dict()
    expected = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(loaded[f"model.model.{key}"], value) for key, value in expected.items())
    described = encoder.describe()
    assert described["patch_backbone"] == "virchow2"
    assert described["patch_pooling"] == "token"
    other = AttentionMIL(2, [1.0], weights=None, patch_encoder={"name": "virchow2", "pooling": "mean"}, patch_size=56)
    with pytest.raises(ValueError, match="trained with patch_pooling = 'token', but the network has 'mean'"):
        other.load_state_dict(net.state_dict())


# ---------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("uni2h", r"unknown backbone 'uni2h'.*\(uni2-h"),
        ("Virchow_2", r"unknown backbone 'Virchow_2'.*\(virchow2"),
        ("hoptimus1", r"\(h-optimus-1"),
        ("locl-dir:/models/uni", "'local-dir:/models/uni'"),
        ({"pooling": "token"}, "an encoder needs a 'name'"),
        ({"name": "uni", "pooling": "cls_mean"}, r"unknown pooling 'cls_mean' of encoder 'uni'.*choose token, mean"),
        ({"name": "uni", "pooling": "tokn"}, r"\('token'\?\)"),
        ({"name": "uni", "mean": [0.5] * 3}, "give 'mean' and 'std' of its input together"),
        ({"name": "uni", "mean": [0.5] * 2, "std": [0.5] * 3}, "not one of three channels"),
        ({"name": "uni", "size": "224"}, "'size' must be a whole number"),
        ({"name": "uni", "mlp_layer": "SwiGluPacked"}, r"unknown layer 'SwiGluPacked' for 'mlp_layer' \(SwiGLUPacked"),
        ({"name": "uni", "regtokens": 4}, r"no keyword 'regtokens' \('reg_tokens'\?\)"),
        ({"name": "vit_tiny_patch16_224", "regtokens": 4}, r"no keyword 'regtokens' \('reg_tokens'\?\)"),
        ({"name": "test_resnet", "pooling": "token"}, "is no transformer with tokens: leave 'pooling' out"),
    ],
)
def test_wrong_input_is_told_with_the_nearest(encoder, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(encoder, None, pooled=True)


def test_tokens_that_nobody_pools_are_asked_for():
    options = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32, "global_pool": ""}
    backbone = build_backbone({"name": "vit_tiny_patch16_224", **options}, None, pooled=True)
    with pytest.raises(ValueError, match="gave 5 tokens of each image instead of one vector: say what is made of them"):
        backbone(torch.rand(1, 3, 32, 32))


def test_names_are_near():
    assert suggest_encoders("UNI2_h")[0] == "uni2-h"
    assert suggest_encoders("gigapath") == ["prov-gigapath"]
    assert suggest_encoders("resnet18") == []
    assert parse_encoder("kaiko").card.name == "kaiko-vits16"


# ------------------------------------------------------------------------------------------------------------------ hub


def put_in_cache(cache, repository, files):
    """Files of a repository, given as bytes, as the cache of the hub has them."""
    folder = cache / "hub" / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that takes connections, with an empty cache; the list has what was asked of it."""
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("monai_jsma.networks.hub.find_hub_fault", lambda: None)
    return asked


def test_a_gated_model_is_told_in_words(hub, monkeypatch, caplog):
    """Before the download license and gate; after it failed, the way in."""

    def refuse(repository, name):
        hub.append((repository, name))
        response = type("Response", (), {"headers": {}, "status_code": 403, "request": None})()
        raise GatedRepoError("403 Client Error. Access to model is restricted.", response=response)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    message = (
        r"'imagenet' could not be loaded into 'uni2-h': 403 .* it is gated \(license CC-BY-NC-ND-4.0\): accept its "
        r"terms at https://huggingface.co/MahmoodLab/UNI2-h, log in with 'hf auth login'"
    )
    monkeypatch.setattr(encoder_building, "_create_transformer", lambda *_, **__: torch.nn.Module())
    with pytest.raises(RuntimeError, match=message):
        build_backbone("uni2-h", "imagenet", pooled=True)
    assert hub == [("MahmoodLab/UNI2-h", "model.safetensors")]
    assert (
        "to be downloaded from https://huggingface.co/MahmoodLab/UNI2-h: license CC-BY-NC-ND-4.0; gated" in caplog.text
    )


def test_the_cache_of_the_hub_is_found_without_asking(hub, monkeypatch, tmp_path, caplog):
    card = shrink(monkeypatch, "uni2-h")
    assert encoder_building.find_weights_here(card) is None
    model = make_reference(card)
    snapshot = put_in_cache(tmp_path, card.hub, {})
    torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("the hub was asked"))
    assert encoder_building.find_weights_here(card).name == "pytorch_model.bin"
    backbone = build_backbone("uni2-h", "imagenet", pooled=True)
    assert torch.equal(backbone.model.model.norm.weight, model.norm.weight)
    assert "downloaded" not in caplog.text


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network; what the hub's cache has is all there is."""

    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("monai_jsma.networks.hub.getproxies", dict)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits to try again"))


@pytest.mark.parametrize("name", ["uni2-h", "phikon-v2", "h0-mini"])
def test_without_a_network_every_kind_fails_in_words(offline, monkeypatch, name):
    """At once; of a model whose layers are in the table only the weights are missing."""
    if ENCODERS[name].architecture is not None:
        shrink(monkeypatch, name)
        build_backbone(name, None, pooled=True)
    with pytest.raises(
        (RuntimeError, ValueError), match=r"huggingface.co cannot be reached .*Name or service not known"
    ):
        build_backbone(name, "imagenet", pooled=True)


def test_a_model_of_transformers_comes_from_the_cache(offline, tmp_path):
    """Phikon-v2 takes 224 pixels: the positions of the sample, which is for 32, are resampled."""
    sample = SAMPLES / "dinov2_registers"
    files = {name: (sample / name).read_bytes() for name in ("config.json", "model.safetensors")}
    put_in_cache(tmp_path, "owkin/phikon-v2", files)
    backbone = build_backbone("phikon-v2", "imagenet", pooled=True).eval()
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    model = build_from_config(json.loads(files["config.json"]), size=224, source="sample").eval()
    model.load_state_dict(convert_transformers_keys(load_file(sample / "model.safetensors"), model))
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.forward_features(normalize(images, ENCODERS["phikon-v2"]))[:, 0]
        torch.testing.assert_close(backbone(images)[:, :, 0, 0], expected)


def test_a_model_whose_layers_the_hub_states_comes_from_the_cache(offline, tmp_path):
    """H0-mini's config.json names an architecture and its input; SwiGLU, which it cannot state, is in the table."""
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 224, "reg_tokens": 4}
    options |= {"mlp_ratio": 2.66667 * 2, "init_values": 1e-5, "no_embed_class": True}
    swiglu = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options, **swiglu)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "global_pool": "",
        "model_args": options,
        "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.7, 0.6, 0.5], "std": [0.2, 0.3, 0.1]},
    }
    snapshot = put_in_cache(tmp_path, "bioptimus/H0-mini", {"config.json": json.dumps(config).encode()})
    save_file(model.state_dict(), snapshot / "model.safetensors")
    backbone = build_backbone("h0-mini", "imagenet", pooled=True).eval()
    images = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = model.eval().forward_features((images - mean) / std)
        expected = torch.cat((tokens[:, 0], tokens[:, 5:].mean(dim=1)), dim=1)
        torch.testing.assert_close(backbone(images)[:, :, 0, 0], expected)


def test_h_by_name_attends_from_its_map(monkeypatch):
    """A thumbnail of a size that its patches do not divide is an error that names the setting."""
    shrink(monkeypatch, "uni2-h")
    options = {"weights": None, "patch_encoder": "test_resnet", "patch_size": 32, "thumbnail_encoder": "uni2-h"}
    net = JSMANet(2, [1.0], thumbnail_size=(56, 84), **options)
    assert net.eval()(torch.rand(1, 3, 64, 96)).shape == (1, 2)
    net = JSMANet(2, [1.0], thumbnail_size=(56, 75), **options)
    with pytest.raises(ValueError, match=r"takes no images of 56 x 75 pixels: .* 'thumbnail_size'"):
        net.eval()(torch.rand(1, 3, 64, 96))
