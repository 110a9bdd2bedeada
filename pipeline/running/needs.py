"""Estimates the disk space and the memory that a run needs, before it starts.

The disk space is an upper bound: it assumes that no component comes from the cache. The factors were measured
(docs/development/benchmarks.md#the-size-of-the-data).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from data.dataset.record import SPLITS
from data.dataset.writer import is_dataset
from im2latex.errors import UserError
from pipeline.config import Config
from pipeline.config.sections import SYNTHETIC
from pipeline.running.examples import examples_folder
from pipeline.workspace import Workspace
from trainer_module.config.model import ModelConfig

# Bytes of a component's output for a byte of the records.
_IMPORTED, _TRANSFORMED = 1.05, 1.25
# The same for Trainer's temporary file, twice if there are more than `_SORTED_BYTES` to sort.
_SORTED, _SORTED_BYTES = 1.4, 64 << 20
# Bytes of a synthetic record for each token that its formula may have, at 96 dpi, and the least of any record.
_SYNTHETIC, _LEAST = 100, 400
# Copies of a model: SavedModel and ONNX file of Trainer, Baseline, Pusher and the serving folder, and two checkpoints
# while one replaces the other, each with the weights, the best ones, and two numbers of the optimiser.
_COPIES, _CHECKPOINTS = 2 * 4, 2 * 4
_FLOAT = 4
# Graphs, statistics, predictions, reports, logs and metadata, of all components and for each example.
_REST, _REST_OF_EXAMPLE = 50_000_000, 200
# A vocabulary of formulas; there is none before Transform.
_VOCABULARY = 600
# Memory: of a process with TensorFlow and TFX, for each example, and for each number that a convolution gives.
_BASE, _INDEX, _OF_ACTIVATION = 1_500_000_000, 125, 6
# In bfloat16, memory for each shape of a batch, and the most shapes of a training.
_OF_SHAPE, _SHAPES = 10_000_000, 400
# Processors that compute in bfloat16, by their flags in /proc/cpuinfo; others emulate it, which is slower than float32.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


class Needs(NamedTuple):
    """The largest number of bytes that a run needs."""

    disk: int
    memory: int


def needs_of(config: Config, workspace: Workspace, first: str | None = None, last: str | None = None) -> Needs:
    """Estimates what a run from the component `first` to the component `last` needs."""
    size, examples, is_drawn = _data(config, workspace)
    start = config.components.index(first) if first else 0
    components = config.components[start : config.components.index(last) + 1 if last else None]
    disk = _REST + _REST_OF_EXAMPLE * examples
    memory = _BASE + _INDEX * examples
    if not is_drawn:
        disk += size
    if "ImportExampleGen" in components:
        disk += round(_IMPORTED * size)
    if "Transform" in components:
        disk += round(_TRANSFORMED * size)
    if "Trainer" in components:
        disk += round(_SORTED * size) * (2 if _SORTED * size > _SORTED_BYTES else 1)
        disk += _FLOAT * (_COPIES + _CHECKPOINTS) * parameters(config.model, config.image.max_height, _VOCABULARY)
        memory += _activations(config) + _shapes(config, examples)
    return Needs(disk, memory)


def _data(config: Config, workspace: Workspace) -> tuple[int, int, bool]:
    """Returns the size of the records in bytes, their number, and whether they exist already."""
    folder = examples_folder(config.data, workspace)
    if config.data.source == SYNTHETIC and not folder.exists():
        examples = sum(getattr(config.data, split) for split in SPLITS)
        return round(examples * _SYNTHETIC * config.data.max_tokens * (config.data.dpi / 96) ** 2), examples, False
    size = sum(file.stat().st_size for split in SPLITS for file in (folder / split).glob("*"))
    counts: dict[str, int] = {}
    if is_dataset(folder):
        counts = json.loads((folder / "dataset.json").read_text("utf-8")).get("counts", {})
    return size, sum(counts.values()) or size // _LEAST, True


def parameters(model: ModelConfig, height: int, vocabulary: int) -> int:
    """Returns the number of a model's parameters, without importing Keras.

    Args:
        model: the network's dimensions.
        height: height of the tallest image, pixels.
        vocabulary: number of tokens.
    """
    units, channels = model.decoder_units, (1, *model.filters)
    count = sum((9 * inputs + 5) * outputs for inputs, outputs in zip(channels, channels[1:], strict=False))
    row_encoder = 4 * units * (channels[-1] + units // 2 + 1)
    if model.row_embedding:
        row_encoder += 2 * units * (height // 8)
    count += row_encoder
    if model.attention != "standard":
        count += row_encoder + 2 * (9 * channels[-1] + 5) * channels[-1]
    recurrent = 2 if model.hidden_recurrence else 1
    count += 4 * units * (model.embedding_units + recurrent * units + 1) + 3 * units * units
    return count + vocabulary * (model.embedding_units + units)


def _activations(config: Config) -> int:
    """Returns the memory for a batch of the largest images, bytes."""
    # Pixels of an image for each number of a channel, after the poolings before that convolution.
    shares = (1, 4, 16, 16, 32, 64)
    of_pixel = sum(channels / share for channels, share in zip(config.model.filters, shares, strict=True))
    number = 2 if _in_bfloat16(config) else _FLOAT
    pixels = config.training.batch_size * config.image.max_height * config.image.max_width
    return round(_OF_ACTIVATION * number * of_pixel * pixels)


def _shapes(config: Config, examples: int) -> int:
    """Returns the memory for the shapes of batches, bytes."""
    batches = config.training.epochs * -(-examples // config.training.batch_size)
    return _OF_SHAPE * min(_SHAPES, batches) if _in_bfloat16(config) else 0


def _in_bfloat16(config: Config) -> bool:
    """Returns whether the training computes in bfloat16; `auto` is taken to choose what the processor supports."""
    precision = config.training.precision
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16())


def has_bfloat16(root: Path = Path("/")) -> bool:
    """Returns whether the processor of this machine computes in bfloat16."""
    lines = (root / "proc/cpuinfo").read_text("utf-8").splitlines()
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return not _BFLOAT16.isdisjoint(next(flags, ()))


def check_room(
    config: Config, workspace: Workspace, first: str | None, last: str | None, allow_full_disk: bool = False
) -> tuple[str, str]:
    """Compares what a run needs with what this machine has.

    Args:
        config: the configuration.
        workspace: the workspace of the run; its folder exists.
        first, last: first and last component of the run; None for those of the pipeline.
        allow_full_disk: do not raise an error if the disk is too small.

    Returns:
        A sentence that says what the run needs, and a warning if the memory is too small, else "".

    Raises:
        UserError: the disk is too small.
    """
    needed = needs_of(config, workspace, first, last)
    free, available = shutil.disk_usage(workspace.home).free, available_memory()
    if needed.disk > free and not allow_full_disk:
        raise UserError(
            f"the run needs up to {_gigabytes(needed.disk)} of disk in {workspace.home}, and {_gigabytes(free)} are "
            "free; free some, set IM2LATEX_HOME to a folder on a larger disk, or try it with --allow-full-disk"
        )
    warning = ""
    if needed.memory > available:
        warning = (
            f"the memory may be too small: {_gigabytes(available)} are available; a lower training.batch_size or "
            "smaller images need less"
        )
    return (
        f"up to {_gigabytes(needed.disk)} of disk in {workspace.home} ({_gigabytes(free)} free) and "
        f"{_gigabytes(needed.memory)} of memory ({_gigabytes(available)} available)"
    ), warning


def available_memory(root: Path = Path("/")) -> int:
    """Returns the memory that this machine, or the container, has left, bytes."""
    lines = (root / "proc/meminfo").read_text("ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = root / "sys/fs/cgroup"
    try:
        limit, used = ((group / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
        return min(available, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or "max": no limit
        return available


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size < 10e9 else f"{size / 1e9:.0f} GB"
