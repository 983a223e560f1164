# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The checks of ``doctor``. Each gives lines of the report, whatever it finds; none imports a library itself.

``ask`` runs a probe of :mod:`monai_jsma.cli.probes` in another process and gives its answer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Answer", "Line", "all_checks"]

LIBRARIES = {  # what is imported: the package to install
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
    "monai": "monai",
    "ignite": "pytorch-ignite",
    "timm": "timm",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "openslide": "openslide-python openslide-bin",
    "tensorboard": "tensorboard",
}
READERS = {"tifffile": "tifffile imagecodecs", "openslide": "openslide-python openslide-bin", "pil": "pillow"}
INSTALL_CUCIM = "pip install --no-deps cucim-cu13"
_MODULES = Path("/proc/modules")
_LARGEST, _MEAN = 32, 3.0  # what JPEG of quality 95 may change a pixel by
_GB = 1e9


class Line(NamedTuple):
    """One line of the report: "PASS", "WARN" or "FAIL", what was looked at, what was found, and how to mend it."""

    status: str
    name: str
    text: str
    fix: str = ""


class Answer(NamedTuple):
    """What a probe said, or why it said nothing."""

    value: Any = None
    error: str = ""


def all_checks(ask: Callable[..., Answer], folder: str) -> Iterator[Callable[[], list[Line]]]:
    """The checks, in the order of the report. ``ask`` runs a probe."""
    yield partial(check_machine, folder=os.curdir)
    for module, package in LIBRARIES.items():
        yield partial(check_library, ask, module, package)
    yield partial(check_gpu, ask)
    yield check_cucim_trap
    yield partial(check_readers, ask, folder)


def check_machine(folder: str) -> list[Line]:
    """Python, cores and free disk."""
    version = ".".join(map(str, sys.version_info[:3]))
    lines = [Line("PASS", "python", f"{version} on {sys.platform}")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = "reading slides needs time; a machine with more cores keeps a GPU busy." if cores < 2 else ""
    lines.append(Line("WARN" if few else "PASS", "cores", str(cores), few))
    free = shutil.disk_usage(folder).free / _GB
    status = "PASS" if free >= 10 else "WARN" if free >= 1 else "FAIL"
    fix = "" if status == "PASS" else "free some: checkpoints and logs of one training take a few GB."
    lines.append(Line(status, "disk", f"{free:.1f} GB free in {Path(folder).resolve()}", fix))
    return lines


def version_of(module: str) -> str:
    """Version of the installed package that holds a module, or "" where there is none."""
    packages = importlib.metadata.packages_distributions().get(module, [])
    return importlib.metadata.version(packages[0]) if packages else ""


def check_library(ask: Callable[..., Answer], module: str, package: str) -> list[Line]:
    """Whether a library can be imported, and its version."""
    version = version_of(module)
    answer = ask("load", {"tensorboard": "torch.utils.tensorboard"}.get(module, module))
    if not answer.error:
        return [Line("PASS", module, version)]
    if module == "torchvision" and "operator torchvision::" in answer.error:
        text = f"{version}; its operators do not fit this PyTorch, so the fallback that does without them is in use"
        fix = "none is needed; the build of torchvision made for this PyTorch would bring them."
        return [Line("WARN", module, text, fix)]
    return [Line("FAIL", module, f"{version} {answer.error}".strip(), f"pip install --force-reinstall {package}")]


def check_gpu(ask: Callable[..., Answer]) -> list[Line]:
    """Whether PyTorch has a GPU, and cuDNN with it."""
    answer = ask("gpu")
    if answer.error:
        fix = "see nvidia-smi; the driver must be new enough for PyTorch's CUDA, or install PyTorch's CPU build."
        return [Line("FAIL", "GPU", answer.error, fix)]
    built_for, names, cudnn = (answer.value[key] for key in ("built_for", "names", "cudnn"))
    if not names:
        fix = "none is needed to try the package; train at the paper's size on a machine with a GPU."
        if Path("/dev/nvidiactl").exists():
            fix = "install PyTorch's CUDA build." if built_for is None else "nvidia-smi must list it; renew its driver."
        build = f"CUDA {built_for}" if built_for else "the CPU only"
        text = f"none that PyTorch can use; it is built for {build}"
        return [Line("WARN", "GPU", text, fix), Line("PASS", "cuDNN", "not used without a GPU")]
    lines = [Line("PASS", "GPU", f"{', '.join(names)}; PyTorch is built for CUDA {built_for}")]
    if cudnn:
        return [*lines, Line("PASS", "cuDNN", str(cudnn))]
    return [*lines, Line("FAIL", "cuDNN", "missing", "reinstall PyTorch's CUDA build, which brings it.")]


def torch_cuda() -> str:
    """The CUDA version that PyTorch is built for, or "", read from its files: nothing is imported."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = file.read_text() if file and file.is_file() else ""
    found = re.search(r"^cuda\b[^=]*=\s*['\"](.+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def cucim_trap() -> str:
    """Why importing cuCIM would hang, or "": with PyTorch's CUDA build, where the kernel shows no list of modules."""
    cuda = torch_cuda()
    if not cuda or _MODULES.exists():
        return ""
    return f"hangs at import beside PyTorch for CUDA {cuda}, as this kernel has no {_MODULES}"


def check_cucim_trap() -> list[Line]:
    """Whether cuCIM is there and can be imported, found without importing it."""
    version = version_of("cucim")
    if importlib.util.find_spec("cucim") is None:
        return [Line("WARN", "cucim", "not installed; tifffile reads in its place", INSTALL_CUCIM)]
    if trap := cucim_trap():
        fix = "pip uninstall cucim-cu13 (tifffile reads in its place), or install PyTorch's CPU build."
        return [Line("FAIL", "cucim", f"{version} {trap}", fix)]
    if os.environ.get("ENABLE_CUSLIDE2") == "1":
        text = f"{version}; not used, as ENABLE_CUSLIDE2=1 selects a plugin that reads wrong pixels"
        return [Line("WARN", "cucim", text, "unset ENABLE_CUSLIDE2")]
    return [Line("PASS", "cucim", version)]


def check_readers(ask: Callable[..., Answer], folder: str) -> list[Line]:
    """Whether each reader gives the pixels of a tiny tiled JPEG TIFF (Pillow: of a PNG)."""
    made = ask("write", folder)
    readers = dict(READERS)
    if importlib.util.find_spec("cucim") and not cucim_trap() and os.environ.get("ENABLE_CUSLIDE2") != "1":
        readers["cucim"] = "cucim-cu13"
    if made.error:
        fix = "mend the libraries above first."
        return [Line("FAIL", f"read {name}", f"no file to read: {made.error}", fix) for name in readers]
    lines = []
    for name, package in readers.items():
        answer = ask("read", name, folder)
        if answer.error:
            text = answer.error
        elif answer.value["largest"] > (0 if name == "pil" else _LARGEST) or answer.value["mean"] > _MEAN:
            text = f"wrong pixels: off by up to {answer.value['largest']}, by {answer.value['mean']:.1f} on average"
        else:
            lines.append(Line("PASS", f"read {name}", "gives the right pixels"))
            continue
        fix = f"pip uninstall {package}; tifffile reads in its place." if name == "cucim" else ""
        lines.append(Line("FAIL", f"read {name}", text, fix or f"pip install --force-reinstall {package}"))
    return lines
