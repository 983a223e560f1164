# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A training of the BACH bundle that was killed goes on where its last whole epoch ended, and keeps its best model."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from bundle_runs import TINY, causes, command, copy_bundle, copy_used, execute, items, make_pictures, model, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_jsma.datalists import load_datalist

KILL = {
    "+imports": ["$import os", "$import signal", "$import ignite"],
    "fifth_iteration": "$ignite.engine.Events.ITERATION_COMPLETED(once=5)",
    "+initialize": [
        "$@train#trainer.add_event_handler(@fifth_iteration, lambda: os.kill(os.getpid(), signal.SIGKILL))"
    ],
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A bundle whose training of four epochs, of two iterations each, was killed in the middle of the third."""
    bundle = copy_bundle(tmp_path_factory.mktemp("killed"))
    make_pictures(bundle / "data", 8, 4, 1)
    (bundle / "configs" / "kill.json").write_text(json.dumps(KILL))
    arguments = command("training", "train", "demo", "kill", **TINY | {"epochs": 4, "max_pictures": 1})
    code, written = execute(arguments, bundle)
    assert code == -signal.SIGKILL, written[-3000:]
    return bundle


@pytest.fixture
def copy(killed, tmp_path) -> Path:
    """A copy of the killed bundle to go on with."""
    return copy_used(killed, tmp_path)


def resume(bundle: Path, best: float | None = None, lr: float | None = None, **overrides) -> None:
    """Go on; before that, change what the checkpoint remembers."""
    state = model(bundle, "checkpoint.pt")
    if best is not None:
        state["best"]["_saved"] = [(best, "model.pt")]
    if lr is not None:
        state["optimizer"]["param_groups"][0]["lr"] = lr
    torch.save(state, bundle / "models" / "checkpoint.pt")
    run(bundle, "train", "demo", resume=True, log_dir=str(bundle / "resumed"), **{"epochs": 4, **overrides})


def test_what_a_kill_leaves(killed):
    state = model(killed, "checkpoint.pt")
    assert set(state) == {"model", "optimizer", "lr_scheduler", "trainer", "best", "pictures"}
    assert state["trainer"]["iteration"] == 4
    assert len(state["best"]["_saved"]) == 1
    assert set(model(killed)) == set(state["model"])


def shown_images(log: Path) -> set[str]:
    return {tag for tag in EventAccumulator(str(log)).Reload().Tags()["images"] if tag.startswith("attention/")}


def test_the_pictures_stay_the_same(copy):
    """What was chosen before counts, not what would be chosen now."""
    state = model(copy, "checkpoint.pt")
    datalist = copy / "data" / "datalist.json"
    file, place, size = state["pictures"]["chosen"][0]
    names = [Path(item["image"]).name for item in items(copy, "validation")]
    other = next(name for name in names if name != Path(file).name)
    listed = {Path(item["image"]).name: item["image"] for item in load_datalist(datalist, "validation", copy / "data")}
    state["pictures"]["chosen"] = [(listed[other], place, size)]
    torch.save(state, copy / "models" / "checkpoint.pt")
    resume(copy, max_pictures=state["pictures"]["max_pictures"])
    assert shown_images(copy / "resumed") == {f"attention/{other}"}


def test_a_checkpoint_of_an_earlier_version_has_no_pictures(copy):
    state = model(copy, "checkpoint.pt")
    del state["pictures"]
    torch.save(state, copy / "models" / "checkpoint.pt")
    resume(copy)
    assert model(copy, "checkpoint.pt")["trainer"]["iteration"] == 8


def test_epochs_optimizer_and_schedule_go_on(copy):
    before = model(copy, "checkpoint.pt")
    resume(copy, lr=5e-6)
    after = model(copy, "checkpoint.pt")
    assert after["trainer"]["iteration"] == 8
    assert {float(s["step"]) for s in after["optimizer"]["state"].values()} == {8.0}
    assert after["optimizer"]["param_groups"][0]["lr"] == 5e-6
    assert [state["lr_scheduler"]["last_epoch"] for state in (before, after)] == [2, 4]
    # Steps of 5e-6 with the moments kept: near where it was, but not there.
    moved = max(float((after["model"][k] - v).abs().max()) for k, v in before["model"].items())
    assert 1e-6 < moved < 1e-4
    steps = [event.step for event in EventAccumulator(str(copy / "resumed")).Reload().Scalars("accuracy/val")]
    assert steps == [3, 4]


@pytest.mark.parametrize(("best", "kept"), [(2.0, True), (-1.0, False)])
def test_only_a_better_model_takes_the_place_of_the_best(copy, best, kept):
    (copy / "models" / "model.pt").write_bytes(b"the best model")
    resume(copy, best=best)
    assert ((copy / "models" / "model.pt").read_bytes() == b"the best model") == kept
    remembered = model(copy, "checkpoint.pt")["best"]["_saved"][0][0]
    assert remembered == 2.0 if kept else 0 <= remembered <= 1


def test_a_finished_training_can_be_prolonged(copy):
    resume(copy)
    finished = model(copy, "checkpoint.pt")
    resume(copy)
    again = model(copy, "checkpoint.pt")
    assert all(torch.equal(value, again["model"][key]) for key, value in finished["model"].items())
    resume(copy, epochs=5)
    assert model(copy, "checkpoint.pt")["trainer"]["iteration"] == 10


def test_without_a_checkpoint_there_is_nothing_to_resume(copy):
    (copy / "models" / "checkpoint.pt").unlink()
    with pytest.raises(RuntimeError) as raised:
        run(copy, "train", "demo", resume=True)
    *_, cause = causes(raised.value)
    assert isinstance(cause, FileNotFoundError)
    assert str(cause).startswith(f"{copy / 'models' / 'checkpoint.pt'}: there is no such checkpoint; train first")


@pytest.mark.parametrize(
    ("configs", "kind"), [(("train", "demo", "evaluate"), "train"), (("inference", "demo"), "infer")]
)
def test_without_a_model_there_is_nothing_to_evaluate(copy, configs, kind):
    (copy / "models" / "model.pt").unlink()
    with pytest.raises(RuntimeError) as raised:
        run(copy, *configs, workflow_type=kind)
    *_, cause = causes(raised.value)
    assert str(cause).startswith(f"{copy / 'models' / 'model.pt'}: there is no such checkpoint; train first")
