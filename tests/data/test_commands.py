from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.commands import app, print_report
from data.dataset.check import DatasetReport, SplitReport
from data.dataset.record import SPLITS
from im2latex.errors import UserError
from tests.data.importers.test_im2latex import processed

RUNNER = CliRunner()


def test_synth_then_check(tmp_path: Path) -> None:
    result = RUNNER.invoke(
        app, ["synth", "--out", str(tmp_path / "set"), "--examples", "60", "--seed", "3", "--workers", "1"]
    )
    assert result.exit_code == 0, result.output
    assert "60 records" in result.output
    checked = RUNNER.invoke(app, ["check", str(tmp_path / "set"), "--json", "--sheet", str(tmp_path / "sheet.png")])
    assert checked.exit_code == 0
    report = json.loads(checked.stdout)
    assert report["splits"]["train"]["records"] == 54 and report["problems"] == []
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_import_says_what_was_rejected_and_held_out(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    (source / "formula_images_processed" / "3.png").unlink()
    result = RUNNER.invoke(app, ["import", str(source), "--out", str(tmp_path / "set"), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "rejected 1 x missing image file" in result.output and "50% of eval" in result.output
    assert RUNNER.invoke(app, ["check", str(tmp_path / "set")]).exit_code == 0


def test_check_fails_when_something_is_wrong(tmp_path: Path) -> None:
    RUNNER.invoke(app, ["synth", "--out", str(tmp_path / "set"), "--examples", "60", "--workers", "1"])
    for shard in (tmp_path / "set" / "test").iterdir():
        shard.write_bytes(shard.read_bytes()[:-30])
    checked = RUNNER.invoke(app, ["check", str(tmp_path / "set")])
    assert checked.exit_code == 1 and "problem: " in checked.output and "is damaged" in checked.output


def test_refusals_are_user_errors(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["synth", "--out", str(tmp_path / "set"), "--level", "hard"])
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match="does not exist"):
        RUNNER.invoke(app, ["import", str(tmp_path / "no"), "--out", str(tmp_path / "set")], catch_exceptions=False)


def test_the_report_of_a_check_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    # Any width, and any number of them.
    spread = [1234, 2345, 9876]
    split = SplitReport(12_345_678, 9_876_543_210, spread, spread, [100, 200, 1500])
    counts = {name: 12_345_678 for name in SPLITS}
    commonest = [(f"\\operatorname{i}", 12_345_678) for i in range(20)]
    report = DatasetReport(
        path="set", source="test", splits=dict.fromkeys(SPLITS, split), rejected=0, vocabulary=1, most_common=commonest,
        seen_once=1, unseen=counts, duplicates=counts, shared=counts, problems=[],
    )  # fmt: skip
    print_report(report, Path("sheet.png"))
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    rows = {line[:22].strip(): line[22:].split() for line in lines}
    assert rows["width, pixels"] == 3 * ["1234", "2345", "9876"]
    assert rows["images, KB"] == 3 * ["9,876,543"]
    assert all(f"\\operatorname{i} 12,345,678" in shown for i in range(20))
