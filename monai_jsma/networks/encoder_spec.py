# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a user says of an encoder: its name, or an object with its name, how it is pooled, and timm's own keywords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from monai_jsma.networks.encoder_cards import ENCODERS, EncoderCard, find_card, suggest_encoders
from monai_jsma.networks.token_encoder import POOLINGS

__all__ = ["FOLDER", "HUB", "EncoderSpec", "find_layers", "parse_encoder", "read_encoder_name"]

HUB = ("hf-hub:", "hf_hub:")
FOLDER = "local-dir:"

_OWN_KEYS = ("name", "pooling", "mean", "std", "size")


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An encoder by its name, with what was said of it beyond that.

    Attributes:
        name: a short name, a name of timm, or ``hf-hub:owner/model`` or ``local-dir:folder``.
        pooling: one of :data:`~monai_jsma.networks.token_encoder.POOLINGS`; None: as the model itself has it.
        normalization: mean and standard deviation of the input; None: as the model states it.
        size: height and width that images are brought to; None: they stay as they are.
        options: keywords of timm's model.
    """

    name: str
    pooling: str | None = None
    normalization: tuple[Any, Any] | None = None
    size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def card(self) -> EncoderCard | None:
        """What is known of a short name; None of other names."""
        return find_card(self.name)

    @property
    def source(self) -> str:
        """Where the model's ``config.json`` and weights lie: that of a short name is its repository on the hub."""
        return self.name if self.card is None else f"hf-hub:{self.card.hub}"


def read_encoder_name(encoder: str | Mapping[str, Any]) -> str:
    """The name of an encoder that is given as a name, or as an object with its name."""
    return encoder if isinstance(encoder, str) else str(encoder.get("name"))


def parse_encoder(encoder: str | Mapping[str, Any]) -> EncoderSpec:
    """Read and check what a user says of an encoder.

    Args:
        encoder: a name, or an object with ``name`` and, as far as they are wanted, ``pooling``, ``mean`` and ``std``,
            ``size``, and keywords of timm's model. Layers are given by the names that they have in ``timm.layers``.

    Raises:
        ValueError: for an unknown name, pooling or layer; the message names the nearest.
    """
    given = {"name": encoder} if isinstance(encoder, str) else dict(encoder)
    name = given.get("name")
    if not isinstance(name, str):
        raise ValueError(f"an encoder needs a 'name', the text of its name, but got {encoder!r}.")
    _check_name(name)
    options = {key: value for key, value in given.items() if key not in _OWN_KEYS}
    return EncoderSpec(
        name=name,
        pooling=_check_pooling(given.get("pooling"), name),
        normalization=_read_normalization(given, name),
        size=_check_size(given.get("size"), name),
        options=find_layers(options),
    )


def _check_pooling(pooling: Any, name: str) -> str | None:
    choices = POOLINGS[:-1]  # the last one needs a pooler, which only an encoder by short name has
    if pooling is None or pooling in choices:
        return pooling
    near = get_close_matches(str(pooling), choices, n=1, cutoff=0.4)
    hint = f" ('{near[0]}'?)" if near else ""
    raise ValueError(f"unknown pooling '{pooling}' of encoder '{name}'{hint}: choose {', '.join(choices)}.")


def _read_normalization(given: Mapping[str, Any], name: str) -> tuple[Any, Any] | None:
    if "mean" not in given and "std" not in given:
        return None
    if "mean" not in given or "std" not in given:
        raise ValueError(f"encoder '{name}': give 'mean' and 'std' of its input together.")
    return given["mean"], given["std"]


def _check_size(size: Any, name: str) -> int | None:
    if size is None or (isinstance(size, int) and size > 0):
        return size
    raise ValueError(f"encoder '{name}': 'size' must be a whole number of pixels, but is {size!r}.")


def find_layers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a model with the classes of its layers in the place of their names.

    Raises:
        ValueError: for a layer that is not known.
    """
    return {key: _find_layer(key, value) for key, value in options.items()}


def _check_name(name: str) -> None:
    """Raise a ValueError for a name that nobody knows."""
    import timm

    if find_card(name) is not None or timm.is_model(name):
        return
    if name.startswith((*HUB, FOLDER)):
        return
    prefix, colon, rest = name.partition(":")
    if colon:
        near = get_close_matches(f"{prefix}:", (*HUB, FOLDER), n=1) or [FOLDER]
        raise ValueError(
            f"unknown backbone '{name}': before ':' stands {HUB[0][:-1]} or {FOLDER[:-1]}: '{near[0]}{rest}'?"
        )
    near = suggest_encoders(name)
    near += get_close_matches(name, timm.list_models(), n=5)
    known = ", ".join(near) or f"see timm.list_models(), or {', '.join(ENCODERS)}"
    raise ValueError(f"unknown backbone '{name}': timm has no model of that name ({known}).")


def _find_layer(key: str, value: Any) -> Any:
    """The class of a layer that is given by its name, such as SwiGLUPacked, SiLU or gelu."""
    if not key.endswith("_layer") or not isinstance(value, str):
        return value
    import timm.layers
    from torch import nn

    for module in (timm.layers, nn):
        if value[:1].isupper() and hasattr(module, value):
            return getattr(module, value)
    if key == "act_layer":
        try:
            return timm.layers.get_act_layer(value)
        except KeyError:
            pass  # the message below names the nearest
    near = ", ".join(get_close_matches(value, [*dir(timm.layers), *dir(nn)], n=3)) or "see timm.layers"
    raise ValueError(f"unknown layer '{value}' for '{key}' ({near}).")
