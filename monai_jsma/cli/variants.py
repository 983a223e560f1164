# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Variants of a bundle, each of which stays what it is called.

The configurations of a variant are read in this order, and a later one wins: ``train.json``, the overlays for all
variants (``--config``), those of the variant, the values (``--set``). So an overlay for all variants never changes
what defines one of them; a value would, and is refused. What defines a variant is what its overlays change of the
bundle. Settings that an overlay brings along, as ``zoom.json`` brings ``zoom_region_size``, may have other values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_jsma.cli.bundles import find_configs, read_config

__all__ = ["SHUFFLED", "SINGLE", "Variant", "can_be_certified", "is_on_tissue", "make_variants"]

SHUFFLED = "shuffled_labels"  # name of the variant that must learn nothing
SINGLE = "single"  # name of those that see one magnification each
_SPECIAL = ("multi", SINGLE, SHUFFLED)  # all others are names of overlays


@dataclass(frozen=True)
class Variant:
    """One way to train a bundle.

    Args:
        name: name of the variant in reports.
        configs: names of the overlays on ``train.json``.
        values: values that replace those of the configurations.
        shuffled: train with randomly permuted labels, see :func:`~monai_jsma.datalists.shuffle_labels`.
        parts: the names that :func:`make_variants` was given, such as ``("single", "all_patches")``.
    """

    name: str
    configs: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    shuffled: bool = field(default=False, kw_only=True)
    parts: tuple[str, ...] = field(default=(), kw_only=True)


def make_variants(
    bundle: Path, names: Sequence[str], *, configs: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> list[Variant]:
    """Make the variants of a bundle from their names.

    Args:
        bundle: folder of the bundle.
        names: ``"multi"`` (the bundle as it is), ``"single"`` (a variant for each single magnification),
            ``"shuffled_labels"`` (the bundle as it is, with randomly permuted labels), the name of an overlay, or
            several of these joined by ``+``.
        configs: names of overlays for all variants.
        values: values for all variants that replace those of the configurations. One of a setting that only overlays
            of some variants have is for these.

    Raises:
        FileNotFoundError: if an overlay is missing.
        ValueError: if a value, or an overlay for all variants, replaces what defines a variant.
    """
    given = dict(values or {})
    overlays_of = {name: [part for part in name.split("+") if part not in _SPECIAL] for name in names}
    everywhere = _list_settings(bundle, ["train", *configs])
    somewhere = _list_settings(bundle, [overlay for overlays in overlays_of.values() for overlay in overlays])
    variants: dict[str, Variant] = {}
    for name, overlays in overlays_of.items():
        parts = tuple(name.split("+"))
        of_others = somewhere - everywhere - _list_settings(bundle, overlays)
        own_values = {key: value for key, value in given.items() if _find_setting(key) not in of_others}
        _check_definition(bundle, name, overlays=overlays, configs=configs, values=own_values)
        variant = Variant(name, (*configs, *overlays), own_values, shuffled=SHUFFLED in parts, parts=parts)
        made = [variant]
        if SINGLE in parts:
            made = _split_magnifications(bundle, variant)
        for one in made:
            variants[one.name] = one
    return list(variants.values())


def _split_magnifications(bundle: Path, variant: Variant) -> list[Variant]:
    """The variant for each magnification of the bundle by itself, coarse to fine."""
    from monai_jsma.geometry import sorted_magnifications

    magnifications = read_config(bundle, variant.configs, variant.values).get_parsed_content("magnifications")
    others = [part for part in variant.parts if part != SINGLE]
    variants = []
    for magnification in sorted_magnifications(magnifications):
        name = "+".join((magnification.name, *others))
        values = {**variant.values, "magnifications": f"[{magnification.mpp}]"}
        variants.append(replace(variant, name=name, values=values))
    return variants


def can_be_certified(bundle: Path, variant: Variant) -> bool:
    """Whether the labels of a variant can be certain after a few patches: attention, and features of one length."""
    config = read_config(bundle, variant.configs, variant.values)
    network = config["network_def"]["_target_"]
    has_attention = network.endswith("JSMANet") and config["thumbnail_backbone"] is not None
    has_one_length = config["feature_norm"] is not None
    return has_attention and has_one_length


def is_on_tissue(bundle: Path, variant: Variant) -> bool:
    """Whether a variant attends only to cells that hold tissue."""
    config = read_config(bundle, variant.configs, variant.values)
    return bool(config.get_parsed_content("tissue_only"))


# ----------------------------------------------------------------------------------------------- what defines a variant


def _check_definition(
    bundle: Path, name: str, *, overlays: Sequence[str], configs: Sequence[str], values: Mapping[str, Any]
) -> None:
    """Check that no value and no other overlay replaces what the overlays of a variant change.

    Raises:
        ValueError: if one does; it names the variant, the setting and the way out.
    """
    own = _find_changed(bundle, overlays, before=["train", *configs])
    for value in values:
        value_name = _normalize(value)
        for key, overlay in own.items():
            if _overlap(value_name, key):
                raise ValueError(
                    f"--set {value_name}: the overlay '{overlay}' sets '{key}', and with another value the variant "
                    f"'{name}' would no longer be what it is called. {_WAY_OUT}"
                )

    keys = [*own]
    if SINGLE in name.split("+"):
        keys.append("magnifications")  # the list itself may be given: each of it is a variant
    train = _read_json(bundle, "train")
    places = {key: _find_places(train, key) for key in keys}
    _check_places(bundle, name, places, configs=configs, values=values)


def _find_changed(bundle: Path, overlays: Sequence[str], *, before: Sequence[str]) -> dict[str, str]:
    """The names that overlays change of what was there before each of them, and which one does."""
    known = _list_settings(bundle, before)
    changed: dict[str, str] = {}
    for overlay in overlays:
        for key in _list_keys(bundle, overlay):
            if _find_setting(key) in known:
                changed[key] = overlay
        known |= _list_settings(bundle, [overlay])
    return changed


def _list_settings(bundle: Path, names: Sequence[str]) -> set[str]:
    """The settings that configurations have, wholly or in part."""
    settings: set[str] = set()
    for name in names:
        settings.update(map(_find_setting, _list_keys(bundle, name)))
    return settings


def _list_keys(bundle: Path, name: str) -> list[str]:
    """The names in a configuration, without its remarks."""
    return [_normalize(key) for key in _read_json(bundle, name) if not key.startswith("_")]


def _find_setting(key: str) -> str:
    """The setting that a name is of: ``sampler`` for ``sampler#k``."""
    return _normalize(key).partition("#")[0]


_WAY_OUT = (
    "Leave it out; or, if it is meant for the other variants, write it into an overlay and give that to --config: the "
    "overlay of a variant goes after it. A copy of the overlay under another name may set what it likes."
)


def _check_places(
    bundle: Path,
    name: str,
    places: Mapping[str, Sequence[str]],
    *,
    configs: Sequence[str],
    values: Mapping[str, Any],
) -> None:
    """Check that what a variant sets still arrives where the bundle uses it.

    Args:
        bundle: folder of the bundle.
        name: name of the variant.
        places: by setting of the variant, the names of the places in ``train.json`` that refer to it.
        configs: names of overlays for all variants.
        values: values for all variants.

    Raises:
        ValueError: if a value or an overlay replaces such a place by something that does not refer to the setting.
    """
    replacements = [("--set ", values)]
    for config in configs:
        replacements.append((f"overlay '{config}', ", _read_json(bundle, config)))

    for source, settings in replacements:
        for key, value in settings.items():
            replaced = _normalize(key)
            own = _find_lost(replaced, value, places)
            if own is not None:
                raise ValueError(
                    f"{source}{replaced}: there the bundle uses '{own}', which defines the variant '{name}': it would "
                    f"no longer be what it is called. Leave it out, or let it refer to '@{own}'."
                )


def _find_lost(replaced: str, value: Any, places: Mapping[str, Sequence[str]]) -> str | None:
    """The setting that no longer arrives at one of its places if ``replaced`` has another value; None if all do."""
    texts = [text for _, text in _list_texts(value)]
    for own, own_places in places.items():
        if replaced == own:
            continue  # the variant's own value comes later, and wins
        is_place = any(_overlap(replaced, place) for place in own_places)
        still_refers = any(_refers(text, own) for text in texts)
        if is_place and not still_refers:
            return own
    return None


def _find_places(config: Mapping[str, Any], key: str) -> list[str]:
    """Names of the places of a configuration that refer to a setting."""
    places = []
    for place, text in _list_texts(config):
        if _refers(text, key):
            places.append(place)
    return places


def _refers(text: str, key: str) -> bool:
    """Whether a text of a configuration refers to a setting, or to a part of it."""
    reference = rf"[@%]{re.escape(key)}(?!\w)"
    return re.search(reference, _normalize(text)) is not None


def _overlap(one: str, other: str) -> bool:
    """Whether two names are the same, or one is of a part of the other, as ``sampler#k`` is of ``sampler``."""
    whole = f"{one}#"
    other_whole = f"{other}#"
    return whole.startswith(other_whole) or other_whole.startswith(whole)


def _normalize(name: str) -> str:
    return name.replace("::", "#").removeprefix("+")


def _list_texts(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of all texts of a configuration."""
    if isinstance(config, str):
        yield name, config
        return
    entries: list[tuple[Any, Any]] = []
    if isinstance(config, Mapping):
        entries = list(config.items())
    elif isinstance(config, (list, tuple)):
        entries = list(enumerate(config))
    for key, value in entries:
        yield from _list_texts(value, f"{name}#{key}" if name else str(key))


def _read_json(bundle: Path, name: str) -> dict[str, Any]:
    (file,) = find_configs(bundle, name)
    return json.loads((bundle / file).read_text(encoding="utf-8"))
