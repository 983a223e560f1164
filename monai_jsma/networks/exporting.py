# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Networks that read what they have attended to cannot be exported as one fixed graph; this says so."""

from __future__ import annotations

from typing import Any, ClassVar, Never

import torch
from torch import nn

__all__ = ["NoExport"]

_MESSAGE = (
    "{} cannot be exported (TorchScript, torch.export, ONNX, TensorRT; 'ckpt_export' of a bundle): which patches are "
    "read depends on the image, and the exported graph would read those of the example from every image. {} Or use the "
    "network in Python with its state dict ('model.pt'), such as by monai.bundle.load."
)


class NoExport(nn.Module):
    """Base of the networks: refuses to become a graph, before a wrong one is written.

    Attributes:
        way_out: sentence that says what can be exported instead.
    """

    way_out: ClassVar[str] = (
        "'python -m monai_jsma export MODEL OUT' writes the graphs of its parts (torch.export and ONNX), and "
        "monai_jsma.deploy runs them."
    )

    def __prepare_scriptable__(self) -> Never:
        """``torch.jit.script`` calls this first.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(_MESSAGE.format(type(self).__name__, self.way_out))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse a call that records a graph; else that of every module.

        The arguments are not looked at: the exporter of ONNX gives others than ``forward`` takes.

        Raises:
            RuntimeError: if ``torch.jit.trace``, ``torch.export`` or an exporter based on them calls.
        """
        _refuse_export(type(self).__name__, self.way_out)
        return super().__call__(*args, **kwargs)


@torch.compiler.assume_constant_result
def _refuse_export(name: str, way_out: str) -> None:
    """Raise an error while a graph is recorded; torch.export would hide one that the graph itself would raise."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RuntimeError(_MESSAGE.format(name, way_out))
