# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The reason of an error is found below MONAI's own errors, in an exception and in the log of a command."""

from __future__ import annotations

import subprocess
import sys

import pytest
from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.transforms import Lambda
from torch.utils.data import DataLoader

from monai_jsma.failures import describe_cause, find_cause_in_log


def fail(item: object = None) -> None:
    raise ValueError("a.png: it cannot be\nread.")


def test_the_reason_is_below_an_expression_and_a_component():
    parser = ConfigParser({"a": {"_target_": "builtins.int", "x": "1"}, "b": {"_target_": "torch.nn.Linear", "x": 1}})
    parser["run"] = "$int('x' + str(@a))"
    with pytest.raises(RuntimeError) as raised:
        parser.get_parsed_content("b")
    assert describe_cause(raised.value).endswith("got an unexpected keyword argument 'x'")
    parser = ConfigParser({"run": "$int('x')"})
    with pytest.raises(RuntimeError) as raised:
        parser.get_parsed_content("run")
    assert describe_cause(raised.value) == "invalid literal for int() with base 10: 'x'"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_reason_is_below_a_transform_and_a_worker(num_workers):
    loader = DataLoader(Dataset([1], transform=Lambda(fail)), num_workers=num_workers)
    with pytest.raises(RuntimeError) as raised:
        list(loader)
    cause = describe_cause(raised.value)
    assert "a.png: it cannot be" in cause
    assert "\n" not in cause


def test_an_error_of_our_own_is_not_looked_behind():
    error = ValueError("b.json: not a JSON file")
    error.__cause__ = ValueError("line 1, column 3")
    assert describe_cause(error) == "b.json: not a JSON file"


def test_an_error_without_words_has_its_name():
    assert describe_cause(EOFError()) == "EOFError"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            "INFO\nTraceback\n  x\nValueError: a.png\n\nThe above\nRuntimeError: Failed to evaluate\n",
            "ValueError: a.png",
        ),
        ("Traceback\nValueError: x\nRuntimeError: y\nerror: a.png: too small.\n", "a.png: too small."),
        ("Traceback\ntorch.OutOfMemoryError: CUDA out of memory\nlast\n", "torch.OutOfMemoryError: CUDA out of memory"),
        ("first\nKilled\n", "Killed"),
        ("", "it has written nothing"),
    ],
)
def test_the_reason_in_a_log(log, cause):
    assert find_cause_in_log(log) == cause


def test_the_reason_is_printed_last():
    program = "from monai_jsma.failures import *; print_cause_last(); print_cause_last(); raise ValueError('a\\nb')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a\nb\nerror: a b\n")
