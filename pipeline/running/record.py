"""Records the conditions of a run when it starts, so that killed runs have them too.

These are properties of the run's context in ML Metadata:

    config            every knob and its value, as JSON, without the section `metadata`
    config_sha256     SHA-256 of that text
    code_commit       commit of the checkout; missing if the code is not in one
    code_changed      1 if files differ from that commit, else 0
    code_sha256       SHA-256 of the code's files
    python, packages  versions; those of the packages as JSON
    data              folder of the TFRecords
    data_fingerprint  SHA-256 of their names and bytes
    start_fingerprint the same for the model that the training starts from, if there is one
    hardware          processor, cores, memory in GiB, GPUs, as JSON
    environment       environment variables that affect computations, as JSON
    host, workspace   machine and workspace of the run

A run on Kubeflow stores the same, put together by its containers (kubeflow/recording.py): hardware and environment are
the Trainer's, `data` may be an address in a bucket, and `host` is "kubeflow". It has the property `ended` if it ended
without success (kubeflow/closing.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from data.repository import REPOSITORY
from pipeline.config import Config, flatten
from pipeline.running.examples import examples_folder
from pipeline.sources import all_files, fingerprint, start_fingerprint
from pipeline.workspace import Workspace

# Environment variables that affect which operations are used for a computation, and their order.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "DNNL_MAX_CPU_ISA", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA", "TF_CUDNN_DETERMINISTIC", "TF_DETERMINISTIC_OPS", "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_XLA_FLAGS", "XLA_FLAGS",
)  # fmt: skip


def describe(config: Config, workspace: Workspace) -> dict[str, str | int]:
    """Returns the properties of a run that starts now; its examples must exist."""
    folder = examples_folder(config.data, workspace)
    return {
        **configuration(knobs_of(config)),
        **code(),
        **packages(),
        "data": str(folder),
        "data_fingerprint": fingerprint_of(folder),
        **start_of(config.training.start_from),
        **machine(),
        "host": socket.gethostname(),
        "workspace": str(workspace.home),
    }


def knobs_of(config: Config) -> dict[str, Any]:
    """Returns the value of every knob that is stored, by dotted name."""
    return {knob: value for knob, value, _ in flatten(config) if not knob.startswith("metadata.")}


def configuration(knobs: Mapping[str, Any]) -> dict[str, str | int]:
    """Returns the properties `config` and `config_sha256`."""
    text = json.dumps(knobs, sort_keys=True)
    return {"config": text, "config_sha256": hashlib.sha256(text.encode()).hexdigest()}


def code() -> dict[str, str | int]:
    """Returns the properties `code_sha256` and, in a checkout, `code_commit` and `code_changed`."""
    return {**_commit(REPOSITORY), "code_sha256": fingerprint(REPOSITORY, all_files())}


def packages() -> dict[str, str | int]:
    """Returns the properties `python` and `packages`."""
    return {"python": platform.python_version(), "packages": json.dumps(_packages())}


def machine() -> dict[str, str | int]:
    """Returns the properties `hardware` and `environment`."""
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return {"hardware": json.dumps(_hardware()), "environment": json.dumps(variables)}


def fingerprint_of(data: Path) -> str:
    """Returns the SHA-256 of the names and bytes of the TFRecords in a folder of splits."""
    return fingerprint(data, sorted(data.glob("*/*")))


def start_of(start: str) -> dict[str, str | int]:
    """Returns the property `start_fingerprint`, of the model that a training starts from; {} if there is none."""
    digest = start_fingerprint(start)
    return {"start_fingerprint": digest} if digest else {}


def _commit(checkout: Path) -> dict[str, str | int]:
    """Returns the commit of a checkout, and whether files differ from it; {} if it is not a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # If the package is installed, its folder may be inside a checkout of another project.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != checkout.resolve():
            return {}
        return {"code_commit": git("rev-parse", "HEAD"), "code_changed": int(bool(git("status", "--porcelain")))}
    except (OSError, subprocess.CalledProcessError):  # no git here, or no checkout
        return {}


def _packages() -> dict[str, str]:
    # Leaves out the vendored packages of setuptools, which are on the path once it is imported.
    installed = (one for one in metadata.distributions() if Path(str(one.locate_file(""))).name != "_vendor")
    versions = {distribution.metadata["Name"]: distribution.version for distribution in installed}
    return dict(sorted(versions.items(), key=lambda package: package[0].lower()))


def _hardware() -> dict[str, object]:
    names = _values(Path("/proc/cpuinfo"), "model name")
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """Returns the names of the GPUs of this machine."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [name for card in cards for name in _values(card, "Model")]


def _values(file: Path, name: str) -> list[str]:
    """Returns the values of the lines `name: value` in a file of the kernel."""
    lines = file.read_text("utf-8", errors="replace").splitlines() if file.exists() else []
    return [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name]
