# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Vision transformers of the ``transformers`` library as models of timm: their configuration and their weights.

Three kinds are known: ViT, DINOv2, and DINOv2 with registers. None of the code that may lie beside such weights is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["build_from_config", "convert_conch_keys", "convert_transformers_keys", "is_transformers_config"]

_KINDS = ("vit", "dinov2", "dinov2_with_registers")

# Beginnings of keys, and what timm calls them. The first that fits is taken.
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
_INSIDE = {
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.output.dense.": "attn.proj.",
    "attention.o_proj.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.fc1.",
    "mlp.weights_out.": "mlp.fc2.",
    "mlp.down_proj.": "mlp.fc2.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
}
# Of the library's versions 4 and 5, which name some layers otherwise.
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)")
_QKV = re.compile(r"attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.(weight|bias)")
_GATED = re.compile(r"mlp\.(gate|up)_proj\.(weight|bias)")
# Layers of timm that hold several of the library, in this order.
_JOINT = (("attn.qkv", _QKV, ("q", "k", "v")), ("mlp.fc1", _GATED, ("gate", "up")))
_UNUSED = ("embeddings.mask_token", "pooler.", "classifier.")


def is_transformers_config(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` describes a model of the ``transformers`` library, not one of timm."""
    return "model_type" in config and "architecture" not in config


def build_from_config(config: Mapping[str, Any], *, size: int | None, source: str) -> nn.Module:
    """A transformer of timm with the layers that a configuration of ``transformers`` describes, with random weights.

    Args:
        config: content of its ``config.json``.
        size: height and width of its images in pixels; None: as the configuration has it.
        source: where the configuration is from, for messages.

    Raises:
        ValueError: if it describes a model of another kind.
    """
    import timm
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    kind = str(config.get("model_type"))
    if kind not in _KINDS:
        raise ValueError(
            f"{source}: its config.json describes a model of the kind '{kind}'; of the library transformers only "
            f"{', '.join(_KINDS)} can be built."
        )
    has_swiglu = bool(config.get("use_swiglu_ffn"))
    width = int(config["hidden_size"])
    hidden = _count_hidden(config, width)
    registers = int(config.get("num_register_tokens") or 0)
    activation = "silu" if has_swiglu else str(config.get("hidden_act", "gelu"))
    mlp_layer: Any = SwiGLUPacked if has_swiglu else Mlp
    model: Any = VisionTransformer(
        img_size=size or int(config["image_size"]),
        patch_size=int(config["patch_size"]),
        embed_dim=width,
        depth=int(config["num_hidden_layers"]),
        num_heads=int(config["num_attention_heads"]),
        mlp_ratio=(hidden + 0.5) / width,  # timm rounds their product down
        qkv_bias=bool(config.get("qkv_bias", True)),
        init_values=None if kind == "vit" else float(config.get("layerscale_value", 1.0)),
        norm_layer=partial(nn.LayerNorm, eps=float(config.get("layer_norm_eps", 1e-6))),
        act_layer=timm.layers.get_act_layer(activation),
        mlp_layer=mlp_layer,
        reg_tokens=registers,
        no_embed_class=registers > 0,
        num_classes=0,
        global_pool="token",
        dynamic_img_size=True,
    )
    model.pretrained_cfg = {"architecture": kind}
    return model


def _count_hidden(config: Mapping[str, Any], width: int) -> int:
    """Channels between the two layers of a block's MLP, as timm counts them."""
    if config.get("model_type") == "vit":
        return int(config["intermediate_size"])
    hidden = int(width * config.get("mlp_ratio", 4))
    if not config.get("use_swiglu_ffn"):
        return hidden
    gated = (int(hidden * 2 / 3) + 7) // 8 * 8  # as the library rounds them
    return 2 * gated  # gates and values


def convert_transformers_keys(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of ``transformers`` under the keys of timm; what is not known keeps its own, so that it is found.

    Positions of another grid than the model's are resampled as the library does it.

    Args:
        state_dict: the weights by their own keys.
        model: the transformer of timm that they are for.
    """
    any_model: Any = model
    converted: dict[str, Tensor] = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    for key, value in _strip_prefix(state_dict).items():
        block = _BLOCK.fullmatch(key)
        if block is not None:
            number, inner = block.groups()
            blocks.setdefault(number, {})[inner] = value
        elif not key.startswith(_UNUSED):
            converted[_rename(key, _OUTSIDE)] = value
    for number, entries in blocks.items():
        for inner, value in _convert_block(entries).items():
            converted[f"blocks.{number}.{inner}"] = value

    positions = converted.get("pos_embed")
    if positions is not None:
        has_registers = any_model.num_reg_tokens > 0
        positions = _resample(positions, any_model.patch_embed.grid_size, antialias=has_registers)
        if any_model.no_embed_class and "cls_token" in converted:
            converted["cls_token"] = converted["cls_token"] + positions[:, :1]
            positions = positions[:, 1:]
        converted["pos_embed"] = positions
    return converted


def _convert_block(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one block under timm's keys."""
    converted: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in entries.items():
        for layer, pattern, _ in _JOINT:
            match = pattern.fullmatch(key)
            if match is not None:
                part, entry = match.groups()
                parts.setdefault((layer, entry), {})[part] = value
                break
        else:
            converted[_rename(key, _INSIDE)] = value
    for layer, _, order in _JOINT:
        for entry in ("weight", "bias"):
            found = parts.get((layer, entry), {})
            if len(found) == len(order):  # else it is missing, which the comparison with the model finds
                converted[f"{layer}.{entry}"] = torch.cat([found[part] for part in order])
    return converted


def _strip_prefix(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Keys without the name of the model inside a larger one, such as ``vit.``."""
    for prefix in ("vit.", "dinov2.", "dinov2_with_registers."):
        if f"{prefix}embeddings.cls_token" in state_dict:
            return {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict


def _rename(key: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _resample(positions: Tensor, grid: tuple[int, int], *, antialias: bool) -> Tensor:
    """Positions ``(1, 1 + places, channels)`` on another grid."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if (side, side) == tuple(grid) or side**2 != positions.shape[1] - 1:
        return positions
    places = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    places = nn.functional.interpolate(places.float(), grid, mode="bicubic", align_corners=False, antialias=antialias)
    places = places.flatten(2).transpose(1, 2).to(positions)
    return torch.cat((positions[:, :1], places), dim=1)


_CONCH = {
    "attn_pool_contrast.query": "query",
    "attn_pool_contrast.ln_q.": "query_norm.",
    "attn_pool_contrast.ln_k.": "token_norm.",
    "attn_pool_contrast.attn.": "attention.",
    "ln_contrast.": "norm.",
}


def convert_conch_keys(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of CONCH's vision tower: those of its transformer, and those of the pooling that its features are from.

    The text tower, the pooling for captions and the projection into the space of texts are left out.
    """
    trunk: dict[str, Tensor] = {}
    pooler: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        tower, _, inner = key.partition("visual.")
        if tower:
            continue
        if inner.startswith("trunk."):
            trunk[inner.removeprefix("trunk.")] = value
        elif inner.startswith(tuple(_CONCH)):
            pooler[_rename(inner, _CONCH)] = value
    return trunk, pooler
