# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What travels with the weights of a network, and is checked when they are loaded.

Weights fit many networks for which they would be wrong: of other magnifications, with the classes in another order,
with another normalization. So the state dict holds, as tensors, the spacings and the other settings of the training
(``trained_with``: JSON as bytes, always of the same length, so that ``torch.load(weights_only=True)`` and
``monai.bundle.load`` read it as any other tensor). What would change the meaning of the weights is an error, what
changes numbers a little is logged. Names of version 0.1 are translated.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_jsma.geometry import Magnification
from monai_jsma.tasks import MULTICLASS

__all__ = ["adopt_class_names", "keep_settings", "prepare_loading", "read_class_names"]

_log = logging.getLogger(__name__)

_NUM_BYTES = 16384  # of the settings as JSON; zeros follow
_CLASS_NAMES = "class_names"
_LOGGED = ("thumbnail_size", "thumbnail_backbone", "patch_backbone", "bag_weights")  # all others are refused
_UNSTATED = {"stain_norm": "None", "task": MULTICLASS}  # what weights of earlier versions were trained with
_TOLERANCE = 0.01  # of a spacing, relative

# Names of version 0.1, and what they are called now. The order of the modules is the same, so that the state of an
# optimizer, which goes by the order of the parameters, fits without translation.
_RENAMED = {"thumbnail_backbone.": "thumbnail_encoder.", "patch_backbone.": "patch_encoder.backbone."}


def prepare_loading(network: nn.Module, magnifications: Sequence[Magnification]) -> None:
    """Keep the magnifications of a network with its weights, and check those of the weights that it loads.

    The network gets the buffer ``spacings``. Loading raises a ValueError if the weights were trained with other
    magnifications: they might fit, and would be wrong. Weights that were saved without spacings are loaded.

    Args:
        network: network of this package, or one like them.
        magnifications: its magnifications, coarse to fine.
    """
    spacings = [magnification.mpp for magnification in magnifications]
    network.register_buffer("spacings", torch.tensor(spacings))
    network.register_load_state_dict_pre_hook(_rename_weights)
    network.register_load_state_dict_pre_hook(_check_spacings)


def keep_settings(network: nn.Module, settings: Mapping[str, Any], *, class_names: Sequence[str] | None) -> None:
    """Keep the settings of a network with its weights, and check those of the weights that it loads.

    The network gets the buffer ``trained_with``. Loading raises a ValueError if the classes, or settings that give the
    weights their meaning, are others; the log has a warning if it is settings that may differ. What the weights do not
    state, because they were saved by an earlier version or without names of the classes, is taken from the network.

    Args:
        network: network of this package, with its classifier.
        settings: values that JSON can hold, by their names.
        class_names: names of the classes in the order of their indices; None: those of the weights that are loaded.

    Raises:
        ValueError: if the names are not different texts, one for each class.
    """
    if class_names is not None:
        class_names = _check_class_names(class_names, settings["num_classes"])
    kept = {_CLASS_NAMES: class_names, **settings}
    network.register_buffer("trained_with", _encode(kept))
    network.register_load_state_dict_pre_hook(_check_settings)


def read_class_names(network: object, names: Sequence[str] | None = None) -> list[str] | None:
    """Names of the classes that a network has from its weights or its constructor.

    Args:
        network: any network, also inside ``DistributedDataParallel`` or ``DataParallel``.
        names: names at hand, such as those of a datalist, which are returned if the network has none.

    Returns:
        the names in the order of the labels; None if there are none.

    Raises:
        ValueError: if ``names`` are not those of the network.
    """
    network = getattr(network, "module", network)
    kept = getattr(network, "trained_with", None)
    saved = None if kept is None else _decode(kept).get(_CLASS_NAMES)
    if names is None:
        return saved
    if saved is not None:
        _compare_class_names(saved, list(names))
    return list(names)


def adopt_class_names(network: nn.Module, names: list[str] | None) -> None:
    """Give a network the names of the classes of weights that became a part of it, if it has none of its own.

    Args:
        network: a network with settings.
        names: names in the order of the labels; None if the weights state none.

    Raises:
        ValueError: if the network has others.
    """
    kept = _decode(network.get_buffer("trained_with"))
    own = kept.get(_CLASS_NAMES)
    if names is None:
        return
    if own is not None:
        _compare_class_names(names, own)
    network.get_buffer("trained_with").copy_(_encode({**kept, _CLASS_NAMES: names}))


def _rename_weights(network: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for old, new in _RENAMED.items():
        old_prefix = prefix + old
        names = [name for name in state_dict if name.startswith(old_prefix)]
        for name in names:
            rest = name.removeprefix(old_prefix)
            state_dict[prefix + new + rest] = state_dict.pop(name)


def _check_spacings(network: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    own = network.get_buffer("spacings")
    saved = state_dict.setdefault(f"{prefix}spacings", own).cpu()
    own = own.to(saved)
    if saved.shape == own.shape and torch.allclose(saved, own, rtol=_TOLERANCE):
        return
    raise ValueError(
        f"the weights were trained with magnifications of {_format(saved)} um per pixel, but the network has "
        f"{_format(own)}; give it the magnifications of the training."
    )


def _check_settings(network: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    key = f"{prefix}trained_with"
    own = _decode(network.get_buffer("trained_with"))
    saved = {}
    if key in state_dict:
        saved = _decode(state_dict[key])
    else:
        _warn_of_earlier_normalization(own)
    _compare_class_names(saved.get(_CLASS_NAMES), own[_CLASS_NAMES])
    for name, value in _UNSTATED.items():
        saved.setdefault(name, value)
    for name, value in own.items():
        if name != _CLASS_NAMES and name in saved and saved[name] != value:
            _report_difference(name, saved[name], value)

    stated = {name: value for name, value in saved.items() if value is not None}
    state_dict[key] = _encode(own | stated).to(network.get_buffer("trained_with").device)


def _compare_class_names(saved: list[str] | None, own: list[str] | None) -> None:
    if own is None or saved == own:
        return
    if saved is None:
        _log.warning(
            "the weights do not state the names of their classes (they were saved by an earlier version, or trained "
            f"without); {own} are taken as their names: make sure that they were in this order in the training."
        )
        return
    raise ValueError(
        f"the weights were trained with the classes {saved}, but the datalist or 'class_names' has {own}: the outputs "
        "would get wrong names. Write 'labels' of the datalist in the order of the training; to rename classes on "
        "purpose, delete 'trained_with' from the state dict."
    )


def _warn_of_earlier_normalization(own: Mapping[str, Any]) -> None:
    """Earlier versions normalized the input of every module with 0.5, whatever it stated."""
    half = [[0.5] * 3, [0.5] * 3]
    for role in ("thumbnail", "patch"):
        is_module = own.get(f"{role}_backbone") == "None"
        if is_module and own[f"{role}_input"] != half:
            _log.warning(
                f"weights of an earlier version do not state how the input of the {role} encoder, a module, was "
                f"normalized: then mean and standard deviation were 0.5, now they are {own[f'{role}_input']}, as the "
                "module states; for 0.5 give Backbone(module, num_features)."
            )


def _report_difference(name: str, saved: object, own: object) -> None:
    difference = f"the weights were trained with {name} = {saved!r}, but the network has {own!r}"
    if name in _LOGGED:
        _log.warning(f"{difference}: its predictions will differ from those of the training.")
        return
    raise ValueError(
        f"{difference}: its predictions would be wrong. Give it the settings of the training, such as the overlays of "
        "configurations that it was run with."
    )


def _check_class_names(names: Sequence[str], num_classes: int) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be a list of texts, but is {names!r}.")
    if len(names) != num_classes:
        raise ValueError(
            f"there are {len(names)} class_names, {list(names)}, but num_classes is {num_classes}; make them agree."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"each class needs a name of its own, but they are {list(names)}.")
    return list(names)


def _encode(settings: Mapping[str, Any]) -> Tensor:
    text = json.dumps(settings).encode("ascii")
    if len(text) > _NUM_BYTES:
        raise ValueError(
            f"the names of the classes and the settings take {len(text)} bytes, but at most {_NUM_BYTES} are kept with "
            "the weights: give the classes shorter names."
        )
    return torch.tensor(list(text.ljust(_NUM_BYTES, b"\0")), dtype=torch.uint8)


def _decode(kept: Tensor) -> dict[str, Any]:
    text = bytes(kept.tolist()).rstrip(b"\0")
    return json.loads(text) if text else {}


def _format(spacings: Tensor) -> str:
    return ", ".join(f"{mpp:.4g}" for mpp in spacings.tolist())
