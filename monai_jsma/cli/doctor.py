# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``doctor``: does this machine have what the package needs? Every fault is reported with a fix.

No library is imported here, but in other processes (:mod:`monai_jsma.cli.probes`) with a time limit, so that one that
crashes or hangs is a line of the report and does not end it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from monai_jsma._io import count_cores
from monai_jsma.cli import Commands, add_command

__all__ = [
    "LIBRARIES",
    "ProbeAnswer",
    "Line",
    "add_commands",
    "ask_probe",
    "check_cucim",
    "check_early_ends",
    "check_export",
    "check_gpu",
    "check_library",
    "check_machine",
    "check_readers",
    "list_checks",
    "print_checks",
    "read_torch_cuda",
]

LIBRARIES = {  # module that is imported: packages to install
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
    "monai": "monai",
    "ignite": "pytorch-ignite",
    "timm": "timm",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "openslide": "openslide-python openslide-bin",
    "pydicom": "pydicom",
    "tensorboard": "tensorboard",
}
READERS = {"tifffile": "tifffile imagecodecs", "openslide": "openslide-python openslide-bin", "pil": "pillow"}
EXPORT_MODULES = ("onnx", "onnxscript", "onnxruntime")
CUCIM_PACKAGE = "cucim-cu13"
KERNEL_MODULES = Path("/proc/modules")
NVIDIA_DEVICE = Path("/dev/nvidiactl")

_MAX_JPEG_ERROR = 32  # what JPEG of quality 95 may change a pixel by
_MAX_MEAN_JPEG_ERROR = 3.0
_GB = 1e9


class Line(NamedTuple):
    """One line of the report.

    Args:
        status: "PASS", "WARN" or "FAIL".
        name: name of what was checked.
        text: result of the check.
        fix: what the user can do about it; empty for PASS.
    """

    status: str
    name: str
    text: str
    fix: str = ""


class ProbeAnswer(NamedTuple):
    """The value that a probe returned, or the error that kept it from returning one."""

    value: Any = None
    error: str = ""


Ask = Callable[..., ProbeAnswer]  # runs the probe of a name with arguments
Check = Callable[[], list[Line]]


def add_commands(commands: Commands) -> None:
    """Add ``doctor``."""
    summary = "Check versions, readers and GPU of this machine, with a fix for each fault."
    parser = add_command(commands, "doctor", print_checks, summary=summary)
    text = "seconds that a library may take to import (default: %(default)g)"
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help=text)


def print_checks(args: argparse.Namespace) -> int:
    """Print the lines of all checks as they come; 1 if one is FAIL."""
    counts: Counter[str] = Counter()
    ask = partial(ask_probe, timeout=args.timeout)
    with tempfile.TemporaryDirectory(prefix="doctor") as folder, ThreadPoolExecutor(count_cores()) as pool:
        for lines in pool.map(_run_check, list_checks(ask, folder)):
            for line in lines:
                counts[line.status] += 1
                _print_line(line)
    print(", ".join(f"{counts[status]} {status}" for status in ("PASS", "WARN", "FAIL")))
    return 1 if counts["FAIL"] else 0


def _run_check(check: Check) -> list[Line]:
    return check()


def _print_line(line: Line) -> None:
    print(f"{line.status}  {line.name:<12} {line.text}", flush=True)
    if line.fix:
        indent = " " * 19  # to the column of the text
        print(f"{indent}fix: {line.fix}", flush=True)


def ask_probe(probe: str, *args: str, timeout: float) -> ProbeAnswer:
    """Run a probe in another process.

    Args:
        probe: name of the probe in :mod:`monai_jsma.cli.probes`.
        args: its arguments.
        timeout: time limit in seconds.
    """
    command = [sys.executable, "-m", "monai_jsma.cli.probes", probe, *args]
    package_root = str(Path(__file__).parents[2])
    python_path = os.environ.get("PYTHONPATH", "")
    search_path = f"{package_root}{os.pathsep}{python_path}" if python_path else package_root
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search_path},
        )
    except subprocess.TimeoutExpired:
        return ProbeAnswer(error=f"no answer within {timeout:g} s")
    except OSError as error:
        return ProbeAnswer(error=f"cannot be started: {error}")

    if process.returncode < 0:
        return ProbeAnswer(error=f"crashed ({signal.Signals(-process.returncode).name})")
    if process.returncode > 0:
        lines = process.stderr.strip().splitlines()
        return ProbeAnswer(error=lines[-1] if lines else f"exit code {process.returncode}")
    try:
        return ProbeAnswer(json.loads(process.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        return ProbeAnswer(error=f"answered {process.stdout[-80:]!r}")


def list_checks(ask: Ask, folder: str) -> list[Check]:
    """The checks, in the order of the report.

    Args:
        ask: function that runs a probe, see :func:`ask_probe`.
        folder: folder for the files that the readers are tested with.
    """
    libraries = [partial(check_library, ask, module, package) for module, package in LIBRARIES.items()]
    return [
        partial(check_machine, os.curdir),
        *libraries,
        partial(check_gpu, ask),
        partial(check_export, ask),
        check_cucim,
        partial(check_readers, ask, folder),
        partial(check_early_ends, ask),
    ]


def check_machine(folder: str) -> list[Line]:
    """Check Python, the processor cores and the free space of a folder's disk."""
    version = ".".join(map(str, sys.version_info[:3]))
    python = Line("PASS", "python", f"{version} on {sys.platform}")
    return [python, _check_cores(), _check_disk(folder)]


def _check_cores() -> Line:
    cores = count_cores()
    if cores < 2:
        fix = "reading slides needs time; a machine with more cores keeps a GPU busy."
        return Line("WARN", "cores", str(cores), fix)
    return Line("PASS", "cores", str(cores))


def _check_disk(folder: str) -> Line:
    free = shutil.disk_usage(folder).free / _GB
    text = f"{free:.1f} GB free in {Path(folder).resolve()}"
    if free >= 10:
        return Line("PASS", "disk", text)
    status = "WARN" if free >= 1 else "FAIL"
    return Line(status, "disk", text, "free some: checkpoints and logs of one training take a few GB.")


def check_library(ask: Ask, module: str, package: str) -> list[Line]:
    """Check whether a library can be imported.

    Args:
        ask: function that runs a probe.
        module: name of the module to import.
        package: names of the packages to install if it cannot be imported.
    """
    version = find_version(module)
    imported = "torch.utils.tensorboard" if module == "tensorboard" else module
    answer = ask("load", imported)
    if not answer.error:
        return [Line("PASS", module, version)]
    if module == "torchvision" and "operator torchvision::" in answer.error:
        text = f"{version}; its operators do not fit this PyTorch, so the fallback without them is in use"
        fix = "none is needed; the build of torchvision made for this PyTorch would bring them."
        return [Line("WARN", module, text, fix)]
    return [Line("FAIL", module, f"{version} {answer.error}".strip(), f"pip install --force-reinstall {package}")]


def find_version(module: str) -> str:
    """Version of the installed package that holds a module, or "" if there is none."""
    packages = importlib.metadata.packages_distributions().get(module)
    if not packages:
        return ""
    return importlib.metadata.version(packages[0])


def check_gpu(ask: Ask) -> list[Line]:
    """Check whether PyTorch can use a GPU, and cuDNN with it."""
    answer = ask("gpu")
    if answer.error:
        fix = "see nvidia-smi; the driver must be new enough for PyTorch's CUDA, or install PyTorch's CPU build."
        return [Line("FAIL", "GPU", answer.error, fix)]

    cuda = answer.value["built_for"]
    names = answer.value["names"]
    if not names:
        return [_report_no_gpu(cuda), Line("PASS", "cuDNN", "not used without a GPU")]
    gpu = Line("PASS", "GPU", f"{', '.join(names)}; PyTorch is built for CUDA {cuda}")
    cudnn = answer.value["cudnn"]
    if not cudnn:
        return [gpu, Line("FAIL", "cuDNN", "missing", "reinstall PyTorch's CUDA build, which brings it.")]
    return [gpu, Line("PASS", "cuDNN", str(cudnn))]


def _report_no_gpu(cuda: str | None) -> Line:
    if not NVIDIA_DEVICE.exists():
        fix = "none is needed to try the package; train at the paper's size on a machine with a GPU."
    elif cuda is None:
        fix = "install PyTorch's CUDA build."
    else:
        fix = "nvidia-smi must list it; update its driver."
    build = f"CUDA {cuda}" if cuda else "the CPU only"
    return Line("WARN", "GPU", f"none that PyTorch can use; it is built for {build}", fix)


def check_export(ask: Ask) -> list[Line]:
    """Check whether what ``export`` needs can be imported; nothing else needs it.

    Args:
        ask: function that runs a probe.
    """
    missing = [module for module in EXPORT_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        text = f"no {', '.join(missing)}; networks cannot be exported to ONNX"
        return [Line("WARN", "export", text, "pip install 'monai-jsma[export]'")]
    versions = []
    for module in EXPORT_MODULES:
        answer = ask("load", module)
        if answer.error:
            return [Line("FAIL", "export", f"{module}: {answer.error}", f"pip install --force-reinstall {module}")]
        versions.append(f"{module} {find_version(module)}")
    return [Line("PASS", "export", ", ".join(versions))]


def check_cucim() -> list[Line]:
    """Check whether cuCIM is installed and can be imported, without importing it."""
    if importlib.util.find_spec("cucim") is None:
        text = "not installed; tifffile reads in its place"
        return [Line("WARN", "cucim", text, f"pip install --no-deps {CUCIM_PACKAGE}")]
    version = find_version("cucim")
    reason = find_cucim_hang()
    if reason:
        fix = f"pip uninstall {CUCIM_PACKAGE} (tifffile reads in its place), or install PyTorch's CPU build."
        return [Line("FAIL", "cucim", f"{version} {reason}", fix)]
    if _selects_cuslide2():
        text = f"{version}; not used, as ENABLE_CUSLIDE2=1 selects a plugin that reads wrong pixels"
        return [Line("WARN", "cucim", text, "unset ENABLE_CUSLIDE2")]
    return [Line("PASS", "cucim", version)]


def find_cucim_hang() -> str:
    """The reason why importing cuCIM would never return, or "".

    It does not beside PyTorch's CUDA build where the kernel has no list of its modules.
    """
    cuda = read_torch_cuda()
    if not cuda or KERNEL_MODULES.exists():
        return ""
    return f"hangs at import beside PyTorch for CUDA {cuda}, as this kernel has no {KERNEL_MODULES}"


def read_torch_cuda() -> str:
    """The CUDA version that PyTorch is built for, or "", read from its files without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    file = Path(spec.origin).with_name("version.py")
    if not file.is_file():
        return ""
    match = re.search(r"^cuda\b[^=]*=\s*['\"](.+)['\"]", file.read_text(), re.MULTILINE)
    return match[1] if match else ""


def _selects_cuslide2() -> bool:
    return os.environ.get("ENABLE_CUSLIDE2") == "1"


def check_readers(ask: Ask, folder: str) -> list[Line]:
    """Check whether each reader returns the pixels of a tiny tiled JPEG TIFF (Pillow: of a PNG).

    Args:
        ask: function that runs a probe.
        folder: folder for the tiny files.
    """
    readers = dict(READERS)
    if _uses_cucim():
        readers["cucim"] = CUCIM_PACKAGE

    answer = ask("write", folder)
    if answer.error:
        text = f"no file to read: {answer.error}"
        fix = "first repair the libraries listed above."
        return [Line("FAIL", f"read {reader}", text, fix) for reader in readers]
    return [_check_reader(ask, reader, package=package, folder=folder) for reader, package in readers.items()]


def _uses_cucim() -> bool:
    return bool(importlib.util.find_spec("cucim")) and not find_cucim_hang() and not _selects_cuslide2()


def check_early_ends(ask: Ask) -> list[Line]:
    """Check whether the reader of tiled JPEG sees every tile that ends early.

    Args:
        ask: function that runs a probe.
    """
    reader = "cucim" if _uses_cucim() else "tifffile"
    answer = ask("early_ends", reader)
    if answer.error:
        return [Line("FAIL", "JPEG tiles", answer.error, "first repair the libraries listed above.")]
    is_seen, _, fix = answer.value[reader].partition("; ")
    return [Line("WARN" if fix else "PASS", "JPEG tiles", is_seen, fix)]


def _check_reader(ask: Ask, reader: str, *, package: str, folder: str) -> Line:
    answer = ask("read", reader, folder)
    fault = answer.error or _find_wrong_pixels(reader, **answer.value)
    if not fault:
        return Line("PASS", f"read {reader}", "returns the right pixels")
    fix = f"pip install --force-reinstall {package}"
    if reader == "cucim":
        fix = f"pip uninstall {package}; tifffile reads in its place."
    return Line("FAIL", f"read {reader}", fault, fix)


def _find_wrong_pixels(reader: str, largest: float, mean: float) -> str:
    max_error = 0 if reader == "pil" else _MAX_JPEG_ERROR  # Pillow reads a PNG
    if largest <= max_error and mean <= _MAX_MEAN_JPEG_ERROR:
        return ""
    return f"wrong pixels: off by up to {largest}, by {mean:.1f} on average"
