# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""No prediction from NaN: what a network computes is checked, and an error names the image and the cause.

The check costs one comparison, for whose result the host waits. What the cause is, is looked for when it fails.

The host waits for the attention anyway, to read patches. For logits it would wait in the middle of a training step:
there :func:`defer_checks` lets their check wait for that of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_jsma.data.batch import PyramidBatch
from monai_jsma.data.prediction_dataset import NotFiniteError
from monai_jsma.networks.patch_encoder import PatchSource

__all__ = ["DeferredChecks", "check_finite", "defer_checks"]


class DeferredChecks:
    """Checks of one training step that have not been looked at."""

    def __init__(self) -> None:
        self._are_finite: list[Tensor] = []
        self._explanations: list[Callable[[], None]] = []

    def add(self, is_finite: Tensor, explain: Callable[[], None]) -> None:
        """Add a check.

        Args:
            is_finite: whether it passes, on the device ``()``.
            explain: raises its error.
        """
        self._are_finite.append(is_finite)
        self._explanations.append(explain)

    def pass_with(self, loss: Tensor) -> bool:
        """Whether the loss is finite and all checks pass, which are then forgotten. The device is waited for once."""
        is_finite = torch.isfinite(loss).all()
        for other in self._are_finite:
            is_finite = is_finite & other.to(is_finite.device)
        if not is_finite:
            return False
        self._are_finite.clear()
        self._explanations.clear()
        return True

    def raise_first(self) -> None:
        """Raise the error of the first check that does not pass."""
        are_finite = self._are_finite
        explanations = self._explanations
        self._are_finite = []
        self._explanations = []
        for is_finite, explain in zip(are_finite, explanations):
            if not is_finite:
                explain()


_deferred: ContextVar[DeferredChecks | None] = ContextVar("deferred checks", default=None)


@contextmanager
def defer_checks() -> Iterator[DeferredChecks]:
    """Let checks that may wait be looked at by the block, together with its loss; at its end those that are left."""
    checks = DeferredChecks()
    token = _deferred.set(checks)
    try:
        yield checks
    finally:
        _deferred.reset(token)
    checks.raise_first()


def check_finite(
    values: Tensor, what: str, *, network: nn.Module, image: Tensor, pyramid: PatchSource, may_wait: bool = False
) -> None:
    """Check that all numbers of a batch are finite.

    Args:
        values: numbers that the network has computed ``(batch, ...)``.
        what: name of these numbers.
        network: network that has computed them.
        image: images that it was given ``(batch, ...)``.
        pyramid: pyramids of the images.
        may_wait: inside :func:`defer_checks`, leave it to the block to look at the check.

    Raises:
        ValueError: if the network's weights are not finite.
        NotFiniteError: if numbers of some images are not finite.
    """
    if values.is_meta:  # a shape without numbers, of which the cost is counted
        return
    is_finite = torch.isfinite(values)
    explain = partial(_explain, is_finite.detach(), what, network=network, image=image, pyramid=pyramid)
    deferred = _deferred.get()
    if may_wait and deferred is not None:
        deferred.add(is_finite.all(), explain)
    elif not is_finite.all():
        explain()


def _explain(is_finite: Tensor, what: str, *, network: nn.Module, image: Tensor, pyramid: PatchSource) -> None:
    """Raise the error of a check that does not pass: what is wrong, and with which image."""
    weight = _find_spoiled_weight(network)
    if weight is not None:
        raise ValueError(
            f"the network cannot predict: its weights '{weight}' are NaN or infinite. Load others; if they come from a "
            "training, it diverged: resume it from an earlier checkpoint with a lower 'lr', or without mixed precision "
            "('amp')."
        )

    are_finite = is_finite.flatten(1).all(dim=1)
    spoiled = torch.nonzero(~are_finite).flatten().tolist()
    with_bad_pixels = _find_bad_pixels(image)
    if network.training and with_bad_pixels:
        spoiled = with_bad_pixels  # batch statistics carry the fault of one image to all others
    errors: dict[int, Exception] = {}
    for number in spoiled:
        name = _name_image(number, image, pyramid)
        reason = (
            f"its {what} {'is' if what == 'attention' else 'are'} NaN or infinite; {_find_way_out(is_finite.device)}"
        )
        if number in with_bad_pixels:
            reason = "it holds pixels that are NaN or infinite; correct the image."
        errors[number] = ValueError(f"{name}: {reason}")
    raise NotFiniteError(errors)


def _find_spoiled_weight(network: nn.Module) -> str | None:
    """Name of a tensor of the network that holds numbers that are none."""
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            return name
    if network.training:
        return None  # batch statistics are of this very batch
    for name, buffer in network.named_buffers():
        if torch.isnan(buffer).any():
            return name
    return None


def _find_bad_pixels(image: Tensor) -> list[int]:
    """Numbers of the images with pixels that are NaN or infinite."""
    are_finite = torch.isfinite(image).flatten(1).all(dim=1)
    return torch.nonzero(~are_finite).flatten().tolist()


def _name_image(number: int, image: Tensor, pyramid: PatchSource) -> str:
    if isinstance(pyramid, PyramidBatch) and pyramid[number].path:
        path = pyramid[number].path
        origin = pyramid[number].origin
        return f"{path} at {origin}" if any(origin) else path
    if isinstance(image, MetaTensor):
        file = image.meta.get("filename_or_obj")
        if isinstance(file, str):
            return file
        if isinstance(file, list) and number < len(file):
            return str(file[number])
    return f"image {number} of the batch"


def _find_way_out(device: torch.device) -> str:
    if torch.is_autocast_enabled(device.type):
        dtype = str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
        return f"numbers may be too large for {dtype}: switch mixed precision off ('amp' to False)."
    return "if the network is being trained, lower 'lr'; otherwise use other weights or another image."
