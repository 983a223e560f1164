# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whether weights belong to an architecture, beyond their keys and shapes: by an answer that is known.

Some models of timm have equal entries and differ in padding, activation or input: weights of one load into the other
without a complaint, and its features are wrong. Of weights that are known, by their checksum, the answer to a fixed
image is known too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["check_known_weights", "compute_answer", "find_twins", "hash_weights", "list_normalizations"]

# Words of timm's names for what changes features but no entry: padding as TensorFlow has it, blurred instead of strided
# layers, another activation, normalization or input.
_ALIKE = {
    "tf_": "",
    "_blur": "",
    "_aa": "",
    "blur": "",
    "aa": "",
    "_quickgelu": "",
    "_siglip": "",
    "_par": "",
    "_gn": "_ln",
    "deit": "vit",
    "beitv2": "beit",
}
_TOLERANCE = 0.01  # of an answer's length; processors and threads differ by 1e-6, other paddings by 0.3 and more


@dataclass(frozen=True)
class _KnownWeights:
    """Weights and the model that they belong to.

    Attributes:
        architecture: timm name of the model.
        num_weights: number of its weights without the classifier, batch statistics included.
        answer: what :func:`compute_answer` gives of that model with these weights, computed in double precision.
    """

    architecture: str
    num_weights: int
    answer: tuple[float, ...]


# By hash_weights: what the packages of pretrained.PACKAGES hold.
_KNOWN = {
    "52f3b1cd645c321edae8461dd82783205a87615ce2d30c14b4a5e7e747369ae1": _KnownWeights(
        "tf_efficientnet_lite0",
        3413024,
        (0.817750, 0.590499, 0.501343, 0.584556, 0.752509, 0.723243, 0.686881, 0.655175),
    ),
    "52a68060c099f266a5149fa96b20f3e8155eacf61ecc01ee0b6fb1a9cec522b0": _KnownWeights(
        "tf_efficientnet_lite1",
        4189344,
        (0.735123, 1.027175, 0.691285, 0.821629, 1.089438, 0.785652, 1.027680, 0.920337),
    ),
    "c76abd23355b05d073a483647f2556900712775105211f685ea295d63e465a26": _KnownWeights(
        "tf_efficientnet_lite2",
        4869168,
        (0.615594, 0.586934, 0.474842, 0.631087, 0.536157, 0.836844, 0.674116, 0.601969),
    ),
}
_SIZES = frozenset(known.num_weights for known in _KNOWN.values())


def check_known_weights(model: nn.Module, architecture: str, *, source: str) -> bool:
    """Compare the answer of a timm model, loaded with its weights, with the one that is known of these weights.

    Args:
        model: a classification model of timm, with or without its classifier.
        architecture: its name.
        source: where the weights came from, for the message.

    Returns:
        False if nothing is known of these weights.

    Raises:
        RuntimeError: if the answer is another one.
    """
    num_weights = sum(value.numel() for value in _list_weights(model))
    if num_weights not in _SIZES:
        return False  # a checksum of a large model takes seconds
    known = _KNOWN.get(hash_weights(model))
    if known is None:
        return False
    right = torch.tensor(known.answer, dtype=torch.float64)
    difference = compute_answer(model) - right
    error = difference.norm() / right.norm()
    if not error < _TOLERANCE:
        raise RuntimeError(
            f"weights '{source}' are those of '{known.architecture}', and '{architecture}' makes other features of "
            f"them ({error:.0%} off): name '{known.architecture}'."
        )
    return True


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of all weights but the classifier's, in the order of the model and whatever its keys are."""
    checksum = hashlib.sha256()
    for value in _list_weights(model):
        array = value.detach().float().cpu().numpy()
        checksum.update(array.tobytes())
    return checksum.hexdigest()


def _list_weights(model: nn.Module) -> list[Tensor]:
    classifier = f"{_get_configuration(model).get('classifier')}."
    weights = []
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not key.startswith(classifier):
            weights.append(value)
    return weights


@torch.no_grad()
def compute_answer(model: nn.Module) -> Tensor:
    """Eight numbers ``(8,)`` in which the features of a fixed image differ where the model does.

    Args:
        model: a classification model of timm. It gets the image with the normalization of its input, and the features
            before its classifier are averaged in eight groups of channels.
    """
    any_model: Any = model
    configuration = _get_configuration(model)
    dtype = next(model.parameters()).dtype
    mean = torch.tensor(configuration["mean"], dtype=dtype).view(3, 1, 1)
    std = torch.tensor(configuration["std"], dtype=dtype).view(3, 1, 1)
    was_training = model.training
    model.eval()
    maps = any_model.forward_features((_make_image().to(dtype) - mean) / std)
    features = any_model.forward_head(maps, pre_logits=True)[0]
    model.train(was_training)
    return torch.stack([group.mean() for group in features.double().tensor_split(8)])


def _make_image() -> Tensor:
    """A texture without chance: ``(1, 3, 64, 64)`` in [0, 1]."""
    values = torch.arange(3 * 64 * 64) * 7919 % 256
    return values.view(1, 3, 64, 64) / 255


def _get_configuration(model: nn.Module) -> Mapping[str, Any]:
    configuration: Any = model.pretrained_cfg
    return configuration


# ------------------------------------------------------------------------------------------------- what cannot be told


def find_twins(architecture: str) -> list[str]:
    """Names of other models of timm that take the same weights and make other features of them.

    They are sought among the names that differ by a word for what changes features but no entry.
    """
    import timm

    plain = _drop_words(architecture)
    alike = [name for name in timm.list_models() if _drop_words(name) == plain]
    names = [name for name in alike if name != architecture]
    if not names:
        return []
    entries = _list_entries(architecture)
    return [name for name in names if _list_entries(name) == entries]


def _drop_words(name: str) -> str:
    for word, replacement in _ALIKE.items():
        name = name.replace(word, replacement)
    return name


def _list_entries(architecture: str) -> dict[str, torch.Size]:
    import timm

    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=0)
    return {key: value.shape for key, value in model.state_dict().items()}


def list_normalizations(architecture: str, *, other_than: tuple[Sequence[float], Sequence[float]]) -> list[str]:
    """Names with tag, such as ``inception_v3.gluon_in1k``, of weights that want the input normalized otherwise.

    Args:
        architecture: timm name without tag.
        other_than: mean and standard deviation of the input.
    """
    import timm

    others = []
    for name in timm.list_pretrained(f"{architecture}.*"):
        configuration: Any = timm.get_pretrained_cfg(name)
        if (configuration.mean, configuration.std) != other_than:
            others.append(name)
    return others
