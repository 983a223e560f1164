# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""One training of a bundle in this process, and its answers from few patches and from all.

What is finished is not done again. A training that was stopped begins anew, so that its cost is that of a whole one.
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

BUDGETS = (1, 2, 5)  # patches of a picture; each network is also asked for as many as it was trained with, and for all


@dataclass(frozen=True)
class AskedRun:
    """A training, and its predictions from different numbers of patches.

    Args:
        bundle: its folder.
        folder: of what the run makes.
        configs: names of the overlays on ``train.json``.
        values: in place of the configurations' own.
        training: what the training alone has in place of them.
    """

    bundle: Path
    folder: Path
    configs: Sequence[str]
    values: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)

    def finish(self) -> None:
        """Train and predict, or what is left to do of it.

        Raises:
            ValueError: when the folder holds a run of other settings.
        """
        file, settings = self.folder / "trained.json", self._settings()
        if not file.exists():
            write_whole(file, json.dumps({"settings": settings, "cost": self._train()}, indent=1) + "\n")
        elif json.loads(file.read_text())["settings"] != settings:
            raise ValueError(f"{self.folder} holds a run of other settings; name another --out.")
        for budget in self.budgets():
            asked = {"inference_sampler": self._sampler(budget), "output_dir": self._predictions(budget).parent}
            if not self._predictions(budget).exists():
                config = self._config("evaluate", validation_list="test", **asked)
                config.get_parsed_content("initialize")
                config.get_parsed_content("run")
        set_determinism(None)

    @property
    def cost(self) -> dict[str, float]:
        """Of the training: ``seconds`` of the processor and ``patches`` encoded, of a picture and epoch."""
        return json.loads((self.folder / "trained.json").read_text())["cost"]

    def budgets(self) -> list[int | str]:
        """The numbers of patches that the network is asked for; "certified" if that bound holds for it."""
        config = self._config()
        trained, attends = config["num_patches"], config["thumbnail_backbone"] is not None
        certified = ["certified"] if attends and config["feature_norm"] == "l2" else []
        draws = not isinstance(config.get_parsed_content("sampler"), AllPatches)
        numbers = sorted({*BUDGETS, *([trained] if draws else [])})
        return [*numbers, "all", *certified]

    def records(self) -> dict[int | str, list[PredictionRecord]]:
        """What was predicted from each number of patches."""
        return {budget: read_records(self._predictions(budget)) for budget in self.budgets()}

    def _predictions(self, budget: int | str) -> Path:
        return self.folder / f"patches_{budget}" / "predictions.jsonl"

    def _sampler(self, budget: int | str) -> str:
        """The sampler of an evaluation with so many patches, as a configuration has it: that of the bundle with k."""
        if budget == "all":
            return "$monai_jsma.networks.AllPatches()"
        if budget == "certified":
            return "$monai_jsma.networks.Certified()"
        sampler = self._config().get_parsed_content("inference_sampler")
        if isinstance(sampler, AllPatches):
            sampler = Pathwise(1, estimator="normalized") if self._config()["thumbnail_backbone"] is None else TopK(1)
        return f"$monai_jsma.networks.{replace(sampler, k=budget)!r}"

    def _config(self, *configs: str, **values: Any) -> ConfigParser:
        places = {"ckpt_dir": self.folder / "models", "log_dir": self.folder / "runs", "max_pictures": 0}
        return read_config(self.bundle, [*self.configs, *configs], {**places, **self.values, **values})

    def _train(self) -> dict[str, float]:
        config = self._config(**self.training)
        encoded = 0

        def count(module: Any, inputs: tuple[Any, ...]) -> None:
            nonlocal encoded
            encoded += len(inputs[0]) if module.training else 0

        config.get_parsed_content("initialize")  # the seed, before the network draws its weights
        config.get_parsed_content("network_def").patch_encoder.backbone.register_forward_pre_hook(count)
        start = time.process_time()
        config.get_parsed_content("run")
        pictures = len(config.get_parsed_content("train#dataset")) * config.get_parsed_content("epochs")
        return {"seconds": time.process_time() - start, "patches": encoded / pictures}

    def _settings(self) -> dict[str, Any]:
        files = [self.bundle / file for file in find_configs(self.bundle, "train", *self.configs, "evaluate")]
        configs = {file.stem: json.loads(file.read_text()) for file in files}
        values = {name: str(value) for name, value in {**self.values, **self.training}.items()}
        return {"configs": configs, "values": values}
