from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from im2latex.errors import UserError
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS
from pipeline.running.launch import _check_start, _follow, _summary, _View, named_component
from pipeline.workspace import Workspace
from trainer_module.config.training import TERMINAL


def test_a_workspace_is_used_by_one_run_at_a_time(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.lock(), pytest.raises(UserError, match="another run is using"), workspace.lock():
        pass
    with workspace.lock():  # the lock is released
        pass


@pytest.mark.parametrize(
    ("first", "last", "settings"),
    [(None, None, []), ("Trainer", "Trainer", []), ("Transform", None, []), (None, "Tuner", ["tuning.trials=2"])],
)
def test_a_run_that_trains_needs_the_model_to_start_from(
    first: str | None, last: str | None, settings: list[str], tmp_path: Path
) -> None:
    settings = [*settings, "tuning.width=[]"]
    with pytest.raises(UserError, match="start_from: there is no file or folder .*nowhere; give the folder"):
        _check_start(load_config(settings=[*settings, f"training.start_from={tmp_path / 'nowhere'}"]), first, last)
    for start in ("reader", "", str(tmp_path)):
        preset = "reader" if start == "reader" else None
        _check_start(load_config(preset, settings=[*settings, f'training.start_from="{start}"']), first, last)


@pytest.mark.parametrize(("first", "last"), [(None, "Transform"), ("Evaluator", None)])
def test_a_run_without_a_training_does_not_need_it(first: str | None, last: str | None, tmp_path: Path) -> None:
    _check_start(load_config(settings=[f"training.start_from={tmp_path / 'nowhere'}"]), first, last)


def follow(folder: Path, program: str, terminal: bool = False) -> dict:
    """Runs a Python program as the pipeline's process, in which `report` sends an event. Returns the result."""
    setup = (
        "import json, os, sys\ndef report(event): os.write(int(sys.argv[2]), (json.dumps(event) + '\\n').encode())\n"
    )
    command, console = [sys.executable, "-c", setup + program], Console(file=io.StringIO(), force_terminal=terminal)
    with open(folder / "lock", "wb") as lock:
        return _follow(command, dict(os.environ), Workspace(folder), folder / "run.log", lock.fileno(), console)


def test_a_crash_after_the_result_is_ignored(tmp_path: Path) -> None:
    assert follow(tmp_path, "report({'result': {'pushed': 'here'}}); os.abort()") == {"pushed": "here"}


@pytest.mark.parametrize(("terminal", "value"), [(True, "1"), (False, "")])
def test_the_process_knows_whether_its_output_is_a_terminal(
    terminal: bool, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERMINAL, "from outside")
    assert follow(tmp_path, f"report({{'result': {{'pushed': os.environ['{TERMINAL}']}}}})", terminal) == {
        "pushed": value
    }


@pytest.mark.parametrize(
    ("program", "how"), [("os.abort()", "was killed by SIGABRT"), ("sys.exit(3)", "ended with status 3")]
)
def test_a_crash_before_the_result_is_one_sentence(program: str, how: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        follow(tmp_path, f"report({{'component': 'Trainer', 'state': 'running'}}); {program}")
    log = tmp_path / "run.log"
    expected = f"Trainer: the pipeline's process {how} (the full log is {log}); the same command continues from here"
    assert str(raised.value) == expected


def view(terminal: bool) -> tuple[_View, io.StringIO, io.BytesIO]:
    screen, log = io.StringIO(), io.BytesIO()
    return _View(Console(file=screen, force_terminal=terminal, width=100), log), screen, log


def test_training_output_is_verbatim_on_a_terminal_and_the_last_state_elsewhere() -> None:
    # Keras overwrites one line again and again, in colour.
    chunks = [b"Epoch 1/2\n\x1b[1m1/2\x1b[0m loss: 3.0", b"\x08\x08\x08\r2/2 loss: 2.5", b"\nrest"]
    for terminal, shown in ((True, b"".join(chunks).decode()), (False, "Epoch 1/2\n2/2 loss: 2.5\n")):
        part, screen, log = view(terminal)
        part.event(b'{"component": "Trainer", "state": "running"}\n')
        for chunk in chunks:
            part.output(chunk)
        assert screen.getvalue() == shown
        assert log.getvalue() == b"Epoch 1/2\n2/2 loss: 2.5\n"


def test_trials_are_shown_while_the_tuner_runs() -> None:
    for terminal in (True, False):
        part, screen, log = view(terminal)
        part.event(b'{"component": "Tuner", "state": "running"}\n')
        part.output(b"Trial 1 of 2\n")
        part.tick()
        assert "Trial 1 of 2\n" in screen.getvalue() and log.getvalue() == b"Trial 1 of 2\n"
        assert screen.getvalue().endswith(" \u2026") == terminal


def test_components_are_named_in_any_case_and_the_tuner_only_with_tuning() -> None:
    assert named_component("transform", "--to") == "Transform"
    assert named_component("tuner", "--to") == "Tuner"
    with pytest.raises(UserError, match="^--from: there is no Tuner without tuning; set tuning.trials$"):
        named_component("tuner", "--from", COMPONENTS)
    with pytest.raises(UserError, match=r"^--to: there is no component 'Trainr'; did you mean Trainer\?$"):
        named_component("Trainr", "--to", COMPONENTS)


def test_other_output_goes_only_to_the_log() -> None:
    part, screen, log = view(terminal=False)
    part.event(b'{"component": "Transform", "state": "running"}\n')
    part.output(b"warning\n")
    assert (screen.getvalue(), log.getvalue()) == ("", b"warning\n")


def test_a_component_has_a_line_with_its_duration_or_cached() -> None:
    part, screen, _ = view(terminal=False)
    for cached in (False, True):
        event = {"component": "Trainer", "state": "done", "seconds": 242.1, "cached": cached, "detail": "fine"}
        line = json.dumps(event).encode() + b"\n"
        part.event(line[:20])
        part.event(line[20:])
    assert screen.getvalue() == "Trainer             4 m 02 s  fine\nTrainer               cached  fine\n"


def test_the_summary_says_why_a_model_was_not_blessed() -> None:
    screen = io.StringIO()
    result = {
        "examples": {"train": 10000, "test": 300}, "vocabulary": 97, "metrics": {"bleu": 0.5, "exact_match": 0.25},
        "baseline": "7", "baseline_metrics": {"bleu": 0.8}, "blessed": False, "reasons": ("BLEU 0.500 is below 0.7",),
        "pushed": None, "report": None, "tuned": "", "pictures": "BLEU 0.500 as they are; lowest: photo 0.100",
        "drift": "drift from version 7: length 0.182 (threshold 0.1)",
    }  # fmt: skip
    _summary(result, Path("run.log"), 61, Console(file=screen, width=100))
    rows = [line.split(maxsplit=1) for line in screen.getvalue().splitlines() if line]
    assert [row[0] for row in rows] == [
        "examples",
        "drift",
        "vocabulary",
        "BLEU",
        "exact",
        "kinds",
        "blessed",
        "time",
        "log",
    ]
    assert rows[0][1].strip() == "10,000 train, 300 test"
    assert rows[1][1].strip() == "from version 7: length 0.182 (threshold 0.1)"
    assert rows[3][1].strip() == "0.500 (serving now, version 7: 0.800)"
    assert rows[5][1].strip() == "of pictures  BLEU 0.500 as they are; lowest: photo 0.100"
    assert rows[6][1].strip() == "no: BLEU 0.500 is below 0.7"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_summary_folds_long_paths_only_on_a_terminal(terminal: bool) -> None:
    screen, report = io.StringIO(), f"/{'folder' * 30}/report.html"
    result: dict[str, Any] = {
        "examples": None, "vocabulary": 97, "metrics": None, "baseline": None, "baseline_metrics": {}, "blessed": None,
        "reasons": (), "withdrawn": "", "pushed": "/serving/im2latex/7", "report": report, "tuned": "", "pictures": "",
        "drift": "",
    }  # fmt: skip
    _summary(result, Path("run.log"), 61, Console(file=screen, force_terminal=terminal, width=80))
    lines = screen.getvalue().splitlines()
    if terminal:
        assert max(map(len, lines)) <= 80
        assert report in "".join(line.strip() for line in lines)
    else:
        assert lines == [
            "",
            "vocabulary  97 tokens",
            "pushed to   /serving/im2latex/7",
            f"report      {report}",
            "time        1 m 01 s",
            "log         run.log",
        ]
