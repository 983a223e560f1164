# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""One training of a bundle in this process, and its predictions from few patches and from all.

A finished training is not repeated. An interrupted one starts again, so that its cost is that of a whole training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import set_determinism

from monai_jsma._io import write_whole
from monai_jsma.cli.bundles import find_configs, read_config
from monai_jsma.networks import AllPatches, Pathwise, TopK
from monai_jsma.predictions.records import PredictionRecord, read_records

__all__ = ["BUDGETS", "AskedRun"]

BUDGETS = (1, 2, 5)  # patches of an image; each network also predicts from as many as in training, and from all


@dataclass(frozen=True)
class AskedRun:
    """A training, and its predictions from different numbers of patches.

    Args:
        bundle: folder of the bundle.
        folder: folder of the results.
        configs: names of the overlays on ``train.json``.
        values: values that replace those of the configurations.
        training: values that replace them in training alone.
    """

    bundle: Path
    folder: Path
    configs: Sequence[str]
    values: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)

    def finish(self) -> None:
        """Train and predict, or complete what is missing.

        Raises:
            ValueError: if the folder holds a run of other settings.
        """
        self._finish_training()
        for budget in self.budgets():
            if not self._predictions(budget).exists():
                self._predict(budget)
        set_determinism(None)

    @property
    def cost(self) -> dict[str, float]:
        """Cost of the training: ``seconds`` of processor time, and ``patches`` encoded per image and epoch."""
        return json.loads(self._trained.read_text())["cost"]

    def budgets(self) -> list[int | str]:
        """The numbers of patches to predict from; "certified" if its bound holds for the network."""
        config = self._read_config()
        numbers = set(BUDGETS)
        if not isinstance(config.get_parsed_content("sampler"), AllPatches):
            numbers.add(config["num_patches"])

        budgets: list[int | str] = [*sorted(numbers), "all"]
        has_attention = config["thumbnail_backbone"] is not None
        if has_attention and config["feature_norm"] == "l2":
            budgets.append("certified")
        return budgets

    def records(self) -> dict[int | str, list[PredictionRecord]]:
        """The predictions from each number of patches."""
        return {budget: read_records(self._predictions(budget)) for budget in self.budgets()}

    @property
    def _trained(self) -> Path:
        return self.folder / "trained.json"

    def _predictions(self, budget: int | str) -> Path:
        return self.folder / f"patches_{budget}" / "predictions.jsonl"

    def _finish_training(self) -> None:
        settings = self._describe()
        if not self._trained.exists():
            report = {"settings": settings, "cost": self._train()}
            write_whole(self._trained, json.dumps(report, indent=1) + "\n")
            return

        found = json.loads(self._trained.read_text())["settings"]
        if found != settings:
            raise ValueError(f"{self.folder} holds a run of other settings; name another --out.")

    def _train(self) -> dict[str, float]:
        config = self._read_config(**self.training)
        num_encoded = 0

        def count(module: Any, inputs: tuple[Any, ...]) -> None:
            nonlocal num_encoded
            if module.training:
                num_encoded += len(inputs[0])

        config.get_parsed_content("initialize")  # the seed, before the network draws its weights
        encoder = config.get_parsed_content("network_def").patch_encoder
        encoder.backbone.register_forward_pre_hook(count)

        start = time.process_time()
        config.get_parsed_content("run")
        seconds = time.process_time() - start
        num_images = len(config.get_parsed_content("train#dataset")) * config.get_parsed_content("epochs")
        return {"seconds": seconds, "patches": num_encoded / num_images}

    def _predict(self, budget: int | str) -> None:
        config = self._read_config(
            "evaluate",
            validation_list="test",
            inference_sampler=self._choose_sampler(budget),
            output_dir=self._predictions(budget).parent,
        )
        config.get_parsed_content("initialize")
        config.get_parsed_content("run")

    def _choose_sampler(self, budget: int | str) -> str:
        """The bundle's sampler for inference with so many patches, as an expression of a configuration."""
        if budget == "all":
            return "$monai_jsma.networks.AllPatches()"
        if budget == "certified":
            return "$monai_jsma.networks.Certified()"

        config = self._read_config()
        sampler = config.get_parsed_content("inference_sampler")
        if isinstance(sampler, AllPatches):
            has_attention = config["thumbnail_backbone"] is not None
            sampler = TopK(1) if has_attention else Pathwise(1, estimator="normalized")
        return f"$monai_jsma.networks.{replace(sampler, k=budget)!r}"

    def _read_config(self, *configs: str, **values: Any) -> ConfigParser:
        """The configuration of the run, with further overlays and values."""
        folders = {
            "ckpt_dir": self.folder / "models",
            "log_dir": self.folder / "runs",
        }
        values = {"max_pictures": 0, **folders, **self.values, **values}
        return read_config(self.bundle, [*self.configs, *configs], values)

    def _describe(self) -> dict[str, Any]:
        """All settings of the run; runs with other settings are never mixed."""
        configs = {}
        for name in find_configs(self.bundle, "train", *self.configs, "evaluate"):
            file = self.bundle / name
            configs[file.stem] = json.loads(file.read_text())

        values = {**self.values, **self.training}
        return {"configs": configs, "values": {name: str(value) for name, value in values.items()}}
