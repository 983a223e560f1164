# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The loss: cross entropy, the attention regulariser (paper, Eq. 3 to 5) and the score function of a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.utils import LossReduction
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.nn.modules.loss import _Loss

from monai_jsma.networks import negative_entropy
from monai_jsma.tasks import MULTICLASS, MULTILABEL, check_task

__all__ = ["JSMALoss"]


class JSMALoss(_Loss):
    """``L = CE(logits, y) + sum_s sg(CE - CE_s) log P_s + alpha R`` for each image, then the mean over the batch.

    The middle term is there only where the network gives ``baseline_logits`` (the samplers ``LeaveOneOut`` and
    ``Prefix``): CE_s is the loss without draw s, or before it. R is the negative entropy of the undropped attention
    (Eq. 3 and 4), or its divergence from a neutral prior that gives every magnification the same share.

    CE is the cross entropy of the classes, or of the grades of an ordinal task, whose logits the network makes of one
    score. Of multi-label it is the mean over the classes of the binary cross entropy of "present".

    Args:
        alpha: weight of R (0.01 in the paper).
        regularizer: ``"entropy"`` or ``"kl"``.
        label_smoothing: label smoothing of the cross entropy, in [0, 1]; of multi-label between present and absent.
        zoom_alpha: for :class:`~monai_jsma.networks.ZoomNet`, the weight of what the choice of regions has of R, in
            place of ``alpha``; None: ``alpha`` for all of R. Where the label is an average over the slide, choose
            regions more evenly, such as by 0.3.
        weight: weight of each class in the cross entropy, positive; None for equal weights. As in
            :class:`torch.nn.CrossEntropyLoss` only their ratios count: the mean over the batch is the weighted mean. Of
            multi-label the mean over the classes is.
        task: ``"multiclass"``, ``"ordinal"`` or ``"multilabel"``.

    Raises:
        ValueError: for an unknown regularizer or task, or a number that is out of range.
    """

    weight: Tensor | None

    def __init__(
        self,
        alpha: float = 0.01,
        regularizer: str = "entropy",
        label_smoothing: float = 0.0,
        *,
        zoom_alpha: float | None = None,
        weight: Sequence[float] | Tensor | None = None,
        task: str = MULTICLASS,
    ) -> None:
        super().__init__(reduction=LossReduction.MEAN.value)
        if regularizer not in ("entropy", "kl"):
            raise ValueError(f"unknown regularizer '{regularizer}'; choose 'entropy' or 'kl'.")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing {label_smoothing} must be in [0, 1].")
        self.register_buffer("weight", _make_weight(weight))
        self.alpha = alpha
        self.zoom_alpha = alpha if zoom_alpha is None else zoom_alpha
        self.regularizer = regularizer
        self.label_smoothing = label_smoothing
        self.task = check_task(task)

    def forward(self, pred: Mapping[str, Tensor] | Tensor, target: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            pred: output of a network of :mod:`monai_jsma.networks`; plain logits give the cross entropy alone.
            target: labels ``(batch,)`` or ``(batch, 1)``, integers: a tensor, an array or a list; of multi-label
                ``(batch, classes)``, 1 where a class is present, else 0.

        Returns:
            the loss, a number; 0 for an empty batch, from which nothing is learned.

        Raises:
            ValueError: if the labels are not integers (a number to regress is no class), one is no class of the logits,
                or of multi-label one is neither 0 nor 1.
        """
        logits = pred if isinstance(pred, Tensor) else pred["logits"]
        target = torch.as_tensor(target, device=logits.device)
        is_column = target.ndim == 2 and target.shape[1] == 1
        if is_column and self.task != MULTILABEL:
            target = target[:, 0]
        loss = self._cross_entropy(logits, target)
        if len(loss) == 0:
            return loss.sum()
        if isinstance(pred, Tensor):
            return loss.mean()
        total = loss
        if "baseline_logits" in pred:
            total = total + self._score_function(loss, pred, target)
        if self.alpha:
            total = total + self.alpha * self._regularize(pred)
        if self.zoom_alpha != self.alpha:
            total = total + (self.zoom_alpha - self.alpha) * self._regularize_zoom(pred)
        return total.mean()

    @property
    def _estimate(self) -> str:
        """What a network calls R where it estimates it."""
        return "divergence" if self.regularizer == "kl" else "negative_entropy"

    def _regularize_zoom(self, pred: Mapping[str, Tensor]) -> Tensor:
        """What the choice of regions has of R ``(batch,)``."""
        estimate = f"zoom_{self._estimate}"
        if estimate not in pred:
            raise ValueError(
                f"zoom_alpha {self.zoom_alpha} differs from alpha {self.alpha}, but the network draws no regions: it "
                "is for ZoomNet in training by a sampler that draws. Leave zoom_alpha out."
            )
        return pred[estimate]

    def _regularize(self, pred: Mapping[str, Tensor]) -> Tensor:
        """R of each image ``(batch,)``; estimated by the network where it does not know the attention of all cells."""
        estimate = self._estimate
        if estimate in pred:
            return pred[estimate]
        prior = pred["log_prior"] if self.regularizer == "kl" else None
        return negative_entropy(pred["log_attention"], prior)

    def _score_function(self, loss: Tensor, pred: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """``sum_s sg(CE - CE_s) log P_s`` ``(batch,)``, with the value 0."""
        baseline_logits = pred["baseline_logits"].detach()  # (batch, k, classes)
        k = baseline_logits.shape[1]
        targets = target.repeat_interleave(k, dim=0)
        baselines = self._cross_entropy(baseline_logits.flatten(0, 1), targets)  # each image k times: weighed as above
        baselines = baselines.unflatten(0, (-1, k))  # (batch, k)
        advantage = loss.detach()[:, None] - baselines

        log_p = pred["drawn_log_prob"]
        zero = log_p - log_p.detach()  # with the gradient of log P: the value stays the loss that one wants to see
        return (advantage * zero).sum(dim=1)

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of each image ``(batch,)``; its mean is the weighted mean of the batch."""
        if self.task == MULTILABEL:
            return self._cross_entropy_of_presence(logits, target)
        num_classes = logits.shape[1]
        if target.shape != logits.shape[:1]:
            one_hot = " (target.argmax(1) of one-hot labels)" if target.shape == logits.shape else ""
            raise ValueError(
                f"labels of shape {tuple(target.shape)} do not fit logits of shape {tuple(logits.shape)}: give one "
                f"label for each image{one_hot}, of shape ({len(logits)},) or ({len(logits)}, 1)."
            )
        _check_integers(target, num_classes)
        labels = sorted(set(target.tolist()))
        if labels and not 0 <= labels[0] <= labels[-1] < num_classes:
            raise ValueError(
                f"labels {labels} do not lie in 0..{num_classes - 1}; correct the datalist or num_classes."
            )
        dtype = torch.promote_types(logits.dtype, torch.float32)
        target = target.long()
        weight = self._find_weight(logits, dtype)
        loss = cross_entropy(
            logits.to(dtype),
            target,
            weight=weight,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        if weight is None or len(loss) == 0:
            return loss
        return loss / weight[target].mean()

    def _cross_entropy_of_presence(self, logits: Tensor, target: Tensor) -> Tensor:
        """Binary cross entropy of each image ``(batch,)``: the weighted mean over its classes."""
        if target.shape != logits.shape:
            raise ValueError(
                f"labels of shape {tuple(target.shape)} do not fit logits of shape {tuple(logits.shape)}: multi-label "
                "needs 1 or 0 for each class of each image, as LabelsToMultiHotd makes of lists; for one class of each "
                "image set the task 'multiclass'."
            )
        dtype = torch.promote_types(logits.dtype, torch.float32)
        truth = target.to(dtype)
        is_binary = (truth == 0) | (truth == 1)
        if not is_binary.all():
            wrong = truth[~is_binary][:3].tolist()
            raise ValueError(
                f"labels of multi-label are 1 (present) or 0 (absent) for each class, but some are {wrong}."
            )
        truth = truth * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = binary_cross_entropy_with_logits(logits.to(dtype), truth, reduction="none")  # (batch, classes)
        weight = self._find_weight(logits, dtype)
        if weight is None:
            return losses.mean(dim=1)
        return losses @ (weight / weight.sum())

    def _find_weight(self, logits: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The weights of the classes in the type and on the device of the logits."""
        if self.weight is None:
            return None
        num_classes = logits.shape[1]
        if len(self.weight) != num_classes:
            raise ValueError(
                f"{len(self.weight)} class weights {self.weight.tolist()} do not fit {num_classes} classes; give one "
                "for each class, in the order of their labels."
            )
        return self.weight.to(logits.device, dtype)


def _make_weight(weight: Sequence[float] | Tensor | None) -> Tensor | None:
    if weight is None:
        return None
    tensor = torch.as_tensor(weight, dtype=torch.float32)
    is_valid = tensor.ndim == 1 and bool(((tensor > 0) & torch.isfinite(tensor)).all())
    if not is_valid:
        raise ValueError(
            f"class weights must be positive numbers, one for each class, but are {tensor.tolist()}; leave a class "
            "that is not to be learned out of the datalist."
        )
    return tensor


def _check_integers(target: Tensor, num_classes: int) -> None:
    """Refuse labels that would be truncated to a class: numbers to regress, NaN."""
    if not target.is_floating_point() or len(target) == 0:
        return
    raise ValueError(
        f"labels of {target.dtype}, such as {target[:3].tolist()}: JSMALoss takes whole numbers from 0 to "
        f"{num_classes - 1}; give classes, such as label.long() of whole numbers; regression is not offered, so make "
        "classes or grades of measured values."
    )
