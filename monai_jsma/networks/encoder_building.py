# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Encoders by name: a short name, a model of timm with its own keywords, a repository of the hub, or a folder."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from monai_jsma.networks.encoder_cards import EncoderCard
from monai_jsma.networks.encoder_spec import FOLDER, HUB, EncoderSpec, find_layers
from monai_jsma.networks.hub import fetch_file, find_cached_file
from monai_jsma.networks.pretrained import compare_entries, create_timm_model, find_weights, read_state_dict
from monai_jsma.networks.token_encoder import MAP, AttentionPooler, TokenEncoder
from monai_jsma.networks.transformers_keys import (
    build_from_config,
    convert_conch_keys,
    convert_transformers_keys,
    is_transformers_config,
)

__all__ = ["WEIGHT_FILES", "BuiltEncoder", "build_encoder", "find_weights_here"]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

_log = logging.getLogger(__name__)


class BuiltEncoder(NamedTuple):
    """A model, the number of its features, and the normalization of its input."""

    model: nn.Module
    num_features: int
    mean: Sequence[float]
    std: Sequence[float]


def build_encoder(spec: EncoderSpec, weights: str | None, *, pooled: bool, head: bool) -> BuiltEncoder:
    """Build an encoder that is given by name.

    Args:
        spec: what was said of it.
        weights: ``"imagenet"``, a path, or None, see :func:`~monai_jsma.networks.build_backbone`.
        pooled: whether only one vector of an image is needed, not a map.
        head: include the layers between the last map and the classifier.

    Raises:
        ValueError: if it cannot be built.
        FileNotFoundError: if ``weights`` is no file.
        RuntimeError: if the weights cannot be had or do not fit.
    """
    config = _read_transformers_config(spec)
    try:
        if spec.card is not None or config is not None:
            return _build_of_tokens(spec, weights, config=config, pooled=pooled)
        return _build_of_timm(spec, weights, pooled=pooled, head=head)
    except TypeError as error:
        raise _explain_keyword(spec, error) from error


def find_weights_here(card: EncoderCard) -> Path | None:
    """The file of weights of an encoder in the hub's cache of this machine; None if it is not there."""
    return find_cached_file(card.hub, WEIGHT_FILES)


def _explain_keyword(spec: EncoderSpec, error: TypeError) -> Exception:
    """What to raise for an error of a call: keywords that timm's model lacks are the user's."""
    from timm.models.vision_transformer import VisionTransformer

    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if match is None:
        return error
    if match[1] not in spec.options and spec.pooling is not None:
        return ValueError(f"'{spec.name}' is no transformer with tokens: leave 'pooling' out.")
    if match[1] not in spec.options:
        return error
    names = VisionTransformer.__init__.__code__.co_varnames
    near = get_close_matches(match[1], names, n=1)
    hint = f" ('{near[0]}'?)" if near else ""
    return ValueError(f"encoder '{spec.name}': timm's model has no keyword '{match[1]}'{hint}.")


# ------------------------------------------------------------------------------------------------------ models of timm


def _build_of_timm(spec: EncoderSpec, weights: str | None, *, pooled: bool, head: bool) -> BuiltEncoder:
    name = spec.name
    options = dict(spec.options)
    overlay = None if weights is None else find_weights(name, str(weights), **options)
    if spec.pooling is not None and pooled:
        options = {"global_pool": "", "dynamic_img_size": spec.size is None, **options}
        inner = create_timm_model(name, weights, overlay=overlay, num_classes=0, **options)
        model: Any = TokenEncoder(inner, spec.pooling, size=spec.size)
        num_features = model.num_features
    elif head:
        model, num_features = _create_with_head(name, weights, overlay=overlay, pooled=pooled, options=options)
    else:
        model, num_features = _create_without_head(name, weights, overlay=overlay, pooled=pooled, options=options)
    stated = inner.pretrained_cfg if isinstance(model, TokenEncoder) else model.pretrained_cfg
    mean, std = spec.normalization or (stated["mean"], stated["std"])
    return BuiltEncoder(model, num_features, mean, std)


def _create_without_head(
    name: str, weights: str | None, *, overlay: Any, pooled: bool, options: Mapping[str, Any]
) -> tuple[Any, int]:
    model = create_timm_model(name, weights, overlay=overlay, features_only=True, out_indices=(-1,), **options)
    num_features = model.feature_info.channels()[-1]
    is_transformer = hasattr(getattr(model, "model", None), "num_prefix_tokens")
    if pooled and is_transformer:
        model = create_timm_model(name, weights, overlay=overlay, num_classes=0, **options)
    return model, num_features


def _create_with_head(
    name: str, weights: str | None, *, overlay: Any, pooled: bool, options: Mapping[str, Any]
) -> tuple[Any, int]:
    options = {**({} if pooled else {"global_pool": ""}), **options}
    model = create_timm_model(name, weights, overlay=overlay, num_classes=0, **options)
    return model, model.head_hidden_size


# --------------------------------------------------------------------------------------------------------- transformers


def _build_of_tokens(
    spec: EncoderSpec, weights: str | None, *, config: Mapping[str, Any] | None, pooled: bool
) -> BuiltEncoder:
    """An encoder of which it is known what its feature is: by its card, or as the library transformers has it."""
    card = spec.card
    size = spec.size or (card.size if card is not None else None)
    inner = _create_transformer(spec, config, size=size)
    pooling = spec.pooling or (card.pooling if card is not None else "token")
    fit: dict[str, Any] = {"size": size}
    if card is not None and spec.size is None:
        fit |= {"resize": card.resize, "interpolation": card.interpolation}
    pooler = None
    if card is not None and pooling == "attention":
        pooler = AttentionPooler(inner.num_features, card.num_features)

    if weights is not None:
        _load_weights(spec, weights, transformer=inner, pooler=pooler, is_of_transformers=config is not None)
    model = TokenEncoder(inner, pooling, pooler=pooler, **fit) if pooled else TokenEncoder(inner, MAP)
    mean, std = _find_normalization(spec, inner)
    return BuiltEncoder(model, model.num_features, mean, std)


def _create_transformer(spec: EncoderSpec, config: Mapping[str, Any] | None, *, size: int | None) -> Any:
    """The transformer, with random weights and for images of any size."""
    if config is not None:
        if spec.options:
            raise ValueError(
                f"encoder '{spec.name}': its config.json states its layers; leave out {', '.join(spec.options)}."
            )
        return build_from_config(config, size=size, source=spec.name)
    card = spec.card
    assert card is not None
    options: dict[str, Any] = {"num_classes": 0, "global_pool": "", "dynamic_img_size": True}
    options |= {**find_layers(card.options), **spec.options}
    return create_timm_model(card.architecture or spec.source, None, **options)


def _find_normalization(spec: EncoderSpec, model: Any) -> tuple[Sequence[float], Sequence[float]]:
    if spec.normalization is not None:
        return spec.normalization
    if spec.card is not None and spec.card.normalization is not None:
        return spec.card.normalization
    stated = model.pretrained_cfg
    if not is_transformers_config(_read_config(spec.source) if "mean" not in stated else {}):
        return stated["mean"], stated["std"]
    processor = _read_json(spec.source, "preprocessor_config.json")
    try:
        return processor["image_mean"], processor["image_std"]
    except KeyError:
        raise ValueError(
            f"encoder '{spec.name}': nothing states how its input is normalized (no image_mean and image_std in a "
            "preprocessor_config.json): give 'mean' and 'std'."
        ) from None


# -------------------------------------------------------------------------------------------------------------- sources


def _read_transformers_config(spec: EncoderSpec) -> Mapping[str, Any] | None:
    """The ``config.json`` of a model of the library transformers; None for models of timm."""
    card = spec.card
    if card is not None and card.architecture is not None:
        return None
    is_folder = spec.source.startswith(FOLDER)
    is_asked_for = card is not None or spec.pooling is not None  # else timm reads it
    if not is_folder and not (spec.source.startswith(HUB) and is_asked_for):
        return None
    config = _read_config(spec.source)
    return config if is_transformers_config(config) else None


def _read_config(source: str) -> Mapping[str, Any]:
    return _read_json(source, "config.json")


def _read_json(source: str, name: str) -> dict[str, Any]:
    """An object of a folder or repository; empty where there is none, which whoever needs it complains of."""
    try:
        path = _get_file(source, [name])
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"backbone '{source}' cannot be made: {error}.") from error
    except ValueError as error:
        raise ValueError(f"backbone '{source}': its {name} is no JSON: {error}.") from error
    return content if isinstance(content, dict) else {}


def _get_file(source: str, names: Sequence[str]) -> Path:
    """The first of some files of a folder, or of a repository, from which it may be downloaded."""
    if not source.startswith(FOLDER):
        return fetch_file(source.partition(":")[2], names)
    return _find_in_folder(Path(source.removeprefix(FOLDER)), names)


def _find_in_folder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}")


# -------------------------------------------------------------------------------------------------------------- weights


def _load_weights(
    spec: EncoderSpec, weights: str, *, transformer: Any, pooler: nn.Module | None, is_of_transformers: bool
) -> None:
    """Load the weights of the hub, of a folder or of a file; every entry must be there and fit."""
    path = str(_find_file(spec, weights))
    saved: Mapping[str, Tensor] = read_state_dict(path)
    of_pooler: dict[str, Tensor] = {}
    if is_of_transformers:
        saved = convert_transformers_keys(saved, transformer)
    if spec.card is not None and spec.card.pooling == "attention":
        saved, of_pooler = convert_conch_keys(saved)
    if pooler is not None:
        compare_entries(of_pooler, pooler.state_dict(), name=spec.name, path=path)
        pooler.load_state_dict(of_pooler)
    expected = transformer.state_dict()
    compare_entries(saved, expected, name=spec.name, path=path)
    transformer.load_state_dict({key: saved[key] for key in expected})


def _find_file(spec: EncoderSpec, weights: str) -> Path:
    """The file of weights.

    Raises:
        FileNotFoundError: if a path is neither a file nor a folder with one.
        RuntimeError: if they cannot be had from the hub.
    """
    if weights != "imagenet":
        path = Path(weights)
        return _find_in_folder(path, WEIGHT_FILES) if path.is_dir() else path
    card = spec.card
    if card is not None and find_weights_here(card) is None:
        gate = f"; gated: its terms must have been accepted at {card.page}" if card.gated else ""
        _log.warning(
            "weights of '%s' are to be downloaded from %s: license %s%s.", spec.name, card.page, card.license, gate
        )
    try:
        path = _get_file(spec.source, WEIGHT_FILES)
    except OSError as error:
        raise RuntimeError(_explain_download(spec, error)) from error
    _log.info("weights of '%s': %s.", spec.name, path)
    return path


def _explain_download(spec: EncoderSpec, error: OSError) -> str:
    card = spec.card
    way_out = "give the path of its file of weights, or of a folder with it"
    if card is not None and card.gated:
        way_out = (
            f"it is gated (license {card.license}): accept its terms at {card.page}, log in with 'hf auth login' where "
            f"there is a network, or {way_out}"
        )
    reason = " ".join(str(error).split())
    return f"weights 'imagenet' could not be loaded into '{spec.name}': {reason}; {way_out}."
