from __future__ import annotations

import io
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from data.dataset.writer import FORMAT
from im2latex.errors import UserError
from pipeline.config import Config, load_config
from pipeline.running.launch import run_pipeline
from pipeline.running.needs import available_memory, check_room, has_bfloat16, needs_of, parameters
from pipeline.workspace import Workspace

GB = 10**9
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("preset", "count"), [("image2latex-tf2", 8_379_008), ("paper", 9_448_064), ("paper-coarse-to-fine", 15_751_808)]
)
def test_the_number_of_parameters_is_that_of_the_presets(preset: str, count: int) -> None:
    config = load_config(preset, None, [])
    assert parameters(config.model, config.image.max_height, vocabulary=504) == pytest.approx(count, rel=0.002)


def own_data(folder: Path, size: int, examples: int | None) -> Config:
    """Writes sparse files with `size` bytes in all, and returns a configuration that uses them."""
    for split in ("train", "eval", "test"):
        (folder / split).mkdir(parents=True)
        with (folder / split / "data.tfrecord").open("wb") as file:
            file.truncate(size // 3)
    if examples is not None:
        (folder / "dataset.json").write_text(json.dumps({"format": FORMAT, "counts": {"train": examples}}))
    return load_config("small", None, [f"data.source={folder}"])


def test_a_run_needs_several_times_its_data_and_little_memory_for_an_example(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    small = needs_of(own_data(tmp_path / "small", 3 * 10**6, 2_000), workspace)
    large = needs_of(own_data(tmp_path / "large", 3 * GB, 1_000_000), workspace)
    # The factors of the documentation: 3.8 times the data, and once more where Trainer has to sort it in parts.
    assert small.disk < 0.5 * GB and 4.5 * 3 * GB < large.disk < 6 * 3 * GB
    assert large.memory - small.memory == pytest.approx(125 * 998_000)
    assert 2.2 * GB < small.memory < 3.2 * GB  # 2.5 to 3.0 GB were measured
    # Without a description, a record is taken to have 400 bytes.
    unknown = needs_of(own_data(tmp_path / "unknown", 3 * GB, None), workspace)
    assert unknown.memory - large.memory == pytest.approx(125 * (3 * GB / 400 - 10**6), rel=0.01)


def test_parts_of_a_run_need_less(tmp_path: Path) -> None:
    workspace, config = Workspace(tmp_path), own_data(tmp_path / "own", 3 * GB, 1_000_000)
    whole, to_transform, from_evaluator = (
        needs_of(config, workspace, *ends) for ends in ((None, None), (None, "Transform"), ("Evaluator", None))
    )
    assert from_evaluator.disk < 0.4 * GB < to_transform.disk < 0.6 * whole.disk
    assert from_evaluator.memory == to_transform.memory < whole.memory


def test_a_run_can_start_at_the_tuner(tmp_path: Path) -> None:
    own_data(tmp_path / "own", 3 * 10**6, 2_000)
    config = load_config("small", None, [f"data.source={tmp_path / 'own'}", "tuning.trials=2"])
    from_tuner, from_trainer = (needs_of(config, Workspace(tmp_path), first) for first in ("Tuner", "Trainer"))
    assert from_tuner == from_trainer


def test_synthetic_data_counts_until_it_is_drawn(tmp_path: Path) -> None:
    config = load_config("quickstart", None, [])
    needed = needs_of(config, Workspace(tmp_path))
    # 11,600 formulas of at most 16 tokens have 5.7 MB; 0.1 GB are for the model, its checkpoints and the rest.
    assert 0.1 * GB < needed.disk < 0.3 * GB
    more = needs_of(load_config("quickstart", None, ["data.train=1000000"]), Workspace(tmp_path))
    assert more.disk > 4 * 10**6 * 492


def test_a_run_that_the_disk_cannot_hold_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GB, GB - 10**7, 10**7))
    config, workspace = load_config("quickstart", None, []), Workspace(tmp_path / "home")
    with pytest.raises(
        UserError, match=r"needs up to 0\.2 GB of disk in .*/home, and 0\.0 GB are free; .*--allow-full-disk$"
    ):
        run_pipeline(config, workspace=workspace, console=Console(file=io.StringIO()))
    assert not workspace.data.exists()
    sentence, warning = check_room(config, workspace, None, None, allow_full_disk=True)
    assert sentence.startswith(f"up to 0.2 GB of disk in {workspace.home} (0.0 GB free) and 2.1 GB of memory (")
    assert warning == ""


def test_too_little_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.running.needs.available_memory", lambda: 2 * GB)
    _, warning = check_room(load_config("paper", None, []), Workspace(tmp_path), None, None)
    assert warning.startswith("the memory may be too small: 2.0 GB are available; a lower training.batch_size")


def test_bfloat16_needs_less_memory_and_auto_is_what_the_processor_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory(precision: str, *more: str) -> int:
        config = load_config("reader", None, [f"training.precision={precision}", *more])
        return needs_of(config, Workspace(tmp_path)).memory

    single, half = memory("float32"), memory("bfloat16")
    assert 18.9 * GB < half < 20 * GB  # 18.9 GB were measured, after 3,488 batches
    assert 25 * GB < single < 30 * GB
    for has, expected in ((True, half), (False, single)):
        monkeypatch.setattr("pipeline.running.needs.has_bfloat16", lambda has=has: has)
        assert memory("auto") == expected
    # A short training has fewer shapes of batches: 10 here.
    short = [f"data.{split}={count}" for split, count in (("train", 620), ("eval", 10), ("test", 10))]
    assert half - memory("bfloat16", "training.epochs=1", *short) > 1.2 * GB


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("Features\t: fp asimd bf16", True),
        ("Features\t: fp asimd", False),
        ("processor\t: 0", False),
    ],
)
def test_a_processor_says_whether_it_computes_in_bfloat16(tmp_path: Path, line: str, expected: bool) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n")
    assert has_bfloat16(tmp_path) is expected


def test_the_memory_of_a_container_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  100 kB\nMemAvailable:  8000000 kB\n")
    assert available_memory(tmp_path) == 8_192_000_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for limit, expected in (("max", 8_192_000_000), (str(3 * GB), 2 * GB), (str(90 * GB), 8_192_000_000)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{GB}\n")
        assert available_memory(tmp_path) == expected
