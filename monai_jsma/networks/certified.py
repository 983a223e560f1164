# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Certified stopping: patches are read by falling attention until the others cannot change the label of Eq. 1.

With features of length 1 at most and logits ``z = W Phi + b``, the unread patches, of attention R together, can move
the bag by a vector r of length R at most. Between two classes that moves the logits by ``(w_a - w_b) r``, so

``z_a - z_b >= (w_a - w_b) Phi_read + b_a - b_b - R |w_b - w_a|``,

and where features are never negative only ``max(0, w_b - w_a)`` counts. If this is positive for one class a against all
b, then a is the label of all patches. The same bounds give an interval of each probability, after any number of them.

A network computes in floating point, and a patch in another batch gives features that differ in their last digits. So
a logit is trusted to half of its digits only: the rest is taken off every bound (:func:`trusted_digits`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_jsma.networks.patches import PatchNetwork, PatchSource
from monai_jsma.networks.sampling import Draw, top_cells

__all__ = ["is_certain", "margin_bounds", "probability_intervals", "read_until_certain", "trusted_digits"]


def margin_bounds(
    logits: Tensor, unread: Tensor, weight: Tensor, bias: Tensor, *, rounding: float = 0.0, non_negative: bool = False
) -> Tensor:
    """Lower bounds of ``z_a - z_b`` of all patches: float64 ``(batch, a, b)``, 0 for a class against itself.

    Args:
        logits: of the unnormalised bag of the patches that were read ``(batch, classes)``.
        unread: attention of all others ``(batch,)``.
        weight: of the linear classifier, as it meets features of length 1 ``(classes, features)``.
        bias: of the classifier ``(classes,)``.
        rounding: error of a logit, relative to the largest value that it can have.
        non_negative: whether features are never below 0.
    """
    logits, weight, bias = logits.double(), weight.double(), bias.double()
    apart = weight - weight[:, None]  # [a, b] = w_b - w_a
    reach = torch.linalg.vector_norm(apart.clamp_min(0) if non_negative else apart, dim=2)
    size = torch.linalg.vector_norm(weight, dim=1) + bias.abs()
    error = (rounding * (size[:, None] + size)).fill_diagonal_(0)
    return logits[:, :, None] - logits[:, None] - unread.double()[:, None, None] * reach - error


def is_certain(bounds: Tensor) -> Tensor:
    """Whether one class is above all others whatever the unread patches show: bool ``(batch,)``."""
    itself = torch.eye(bounds.shape[1], dtype=torch.bool, device=bounds.device)
    return (bounds.gt(0) | itself).all(dim=2).any(dim=1)


def probability_intervals(bounds: Tensor) -> Tensor:
    """The least and the greatest probability of each class that the bounds allow: float64 ``(batch, classes, 2)``."""
    return torch.stack((-(-bounds).logsumexp(dim=2), -bounds.logsumexp(dim=1)), dim=2).exp()


def trusted_digits(features: Tensor) -> float:
    """Half of the digits in which ``features`` were computed: the square root of the machine epsilon.

    Autocast computes in its own type; an accelerator may multiply float32 as TF32, which has the digits of float16.
    """
    kind, dtype = features.device.type, features.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    elif kind != "cpu":
        dtype = torch.float16
    return float(torch.finfo(dtype).eps ** 0.5)


def read_until_certain(
    network: PatchNetwork, log_attention: Tensor, pyramid: PatchSource, max_patches: int | None, chunk: int
) -> tuple[Draw, dict[str, Tensor]]:
    """Read each picture, highest attention first, until its label is certain.

    Args:
        network: with features of length 1 and a linear classifier.
        log_attention: ``(batch, cells)``.
        pyramid: what the patches are read from.
        max_patches: of each picture; a picture whose label is not certain then is not certified. None: all.
        chunk: patches of each picture between two looks at the bounds.

    Returns:
        What was read, weighed by P / (sum of their P), and a mapping with ``logits`` of this bag. It is one of those
        that the bounds allow: in a certified picture its label is that of all patches. ``certified`` ``(batch,)`` and
        ``intervals`` ``(batch, classes, 2)`` are beside them.

    Raises:
        ValueError: when the bounds do not hold for the network, or for a number below 1.
    """
    weight, bias = _classifier_of(network)
    if chunk < 1 or (max_patches is not None and max_patches < 1):
        raise ValueError(f"max_patches {max_patches} and certified_chunk {chunk} must be at least 1.")
    cells, attention, _ = top_cells(log_attention, log_attention.shape[1], normalize=False)
    cap = cells.shape[1] if max_patches is None else min(max_patches, cells.shape[1])
    tail = attention.double().flip(1).cumsum(1).flip(1)  # of each cell and all below it: 0, not nearly 0, at the end
    tail = nn.functional.pad(tail, (0, 1))
    bag = attention.new_zeros(len(cells), weight.shape[1])
    stop = torch.zeros(len(cells), dtype=torch.long, device=cells.device)
    reading = torch.ones(len(cells), dtype=torch.bool, device=cells.device)
    for start in range(0, cap, chunk):
        part = slice(start, min(start + chunk, cap))
        drawn = (attention[:, part] > 0) & reading[:, None]
        draw = Draw(cells[:, part], attention[:, part] * drawn, drawn)
        features = network.patch_features(pyramid, draw, in_chunks=True)
        bag, stop = bag + network.aggregate(features, draw.weights), stop + drawn.sum(dim=1)
        unread = tail.gather(1, stop[:, None])[:, 0]
        bounds = margin_bounds(
            network.classify(bag),
            unread,
            weight,
            bias,
            rounding=trusted_digits(features),
            non_negative=network.patch_backbone.non_negative,
        )
        reading = reading & ~is_certain(bounds) & (unread > 0)
        if not reading.any():
            break
    drawn = torch.arange(int(stop.max()), device=cells.device) < stop[:, None]
    weights = attention[:, : drawn.shape[1]] * drawn
    mass = weights.sum(dim=1, keepdim=True)
    draw = Draw(cells[:, : drawn.shape[1]], weights / mass, drawn)
    intervals = probability_intervals(bounds).to(bag.dtype)
    return draw, {"logits": network.classify(bag / mass), "certified": is_certain(bounds), "intervals": intervals}


def _classifier_of(network: PatchNetwork) -> tuple[Tensor, Tensor]:
    """Weight and bias as they meet features of length 1."""
    if network.feature_norm != "l2" or type(network.classifier) is not nn.Linear:
        raise ValueError(
            f"num_patches 'certified' needs features of length 1 and a linear classifier, but feature_norm is "
            f"{network.feature_norm!r} and the classifier {type(network.classifier).__name__}: train with "
            "feature_norm 'l2', or give a number of patches or 'all'."
        )
    weight, bias = network.classifier.weight, network.classifier.bias
    return network.scaled(weight), weight.new_zeros(len(weight)) if bias is None else bias
