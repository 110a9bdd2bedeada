"""The command `im2latex monitor`, on saved responses; serving/test_asked.py uses a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from im2latex import cli
from im2latex.errors import UserError
from im2latex.statistics import OF_REQUESTS, of_values, to_document
from pipeline.cli import app


def statistics(count: int, width: float = 200, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    values = {
        "width": rng.normal(width, 40, count),
        "height": rng.normal(40, 6, count),
        "ink": rng.uniform(0.05, 0.25, count),
        "length": rng.integers(2, 60, count),
        "confidence": rng.beta(6, 1, count),
    }
    return to_document({name: of_values(name, sample.tolist()) for name, sample in values.items()})


def answer(count: int = 300, until: str = "2026-11-27T12:00:00Z", **serving: Any) -> dict[str, Any]:
    counts = {"version": "7", "since": "2026-11-27T09:00:00Z", "until": until, "pictures": count, "blank": 1}
    return counts | {"training": statistics(2000, seed=1), "serving": statistics(count, **serving)}


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(document: Any, name: str = "answer.json") -> str:
        (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
        return str(tmp_path / name)

    return save


def monitor(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["monitor", *arguments], input=stdin)


def rows(output: str) -> dict[str, list[str]]:
    return {row.split()[0]: row.split()[1:] for row in output.splitlines()[2:]}


def test_pictures_as_in_training_have_status_0(saved: Any) -> None:
    done = monitor("--statistics", saved(answer()))
    assert done.exit_code == 0
    first, head, *_ = done.stdout.splitlines()
    assert first == "version 7 has read 300 pictures since 2026-11-27T09:00:00Z"
    assert head.split() == ["feature", "training", "serving", "distance", "threshold", "status"]
    assert set(rows(done.stdout)) == set(OF_REQUESTS)
    assert {row[-1] for row in rows(done.stdout).values()} == {"ok"}


def test_wider_pictures_have_status_4_and_are_named(saved: Any) -> None:
    path = saved(answer(width=400))
    done = monitor("--statistics", path)
    assert done.exit_code == cli.run(["monitor", "--statistics", path]) == 4
    table = rows(done.stdout)
    assert [name for name, row in table.items() if row[-1] == "drifted"] == ["width"]
    assert float(table["width"][1]) == pytest.approx(400, rel=0.05) and float(table["width"][2]) > 0.5
    assert monitor("--statistics", "-", stdin=json.dumps(answer(width=400))).stdout == done.stdout
    assert monitor("--statistics", path, "--threshold", "width=1").exit_code == 0
    document = json.loads(monitor("--statistics", path, "--json").stdout)
    assert (document["status"], document["version"], document["pictures"]) == ("drifted", "7", 300)
    by_feature = {one["feature"]: one for one in document["comparisons"]}
    assert by_feature["width"]["status"] == "drifted" and by_feature["height"]["status"] == "ok"
    assert f"{by_feature['width']['distance']:.3f}" == table["width"][2]


def test_few_pictures_are_not_compared(saved: Any) -> None:
    done = monitor("--statistics", saved(answer(99, width=400)))
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "too few to compare: 100 are needed")
    document = json.loads(monitor("--statistics", saved(answer(99, width=400)), "--json").stdout)
    assert (document["status"], document["comparisons"]) == ("too few", [])


def test_only_pictures_after_an_earlier_response_are_compared(saved: Any) -> None:
    before, later = answer(3000), answer(150, width=400, seed=3)
    for name, histogram in later["serving"].items():
        histogram["counts"] = (np.array(histogram["counts"]) + before["serving"][name]["counts"]).tolist()
        histogram["sum"] += before["serving"][name]["sum"]
    path, earlier = saved(later), saved(before, "before.json")
    assert monitor("--statistics", path).exit_code == 0  # few among many
    done = monitor("--statistics", path, "--since", earlier)
    assert done.exit_code == 4
    assert done.stdout.startswith("version 7 has read 150 pictures since 2026-11-27T12:00:00Z")
    # After a start of the service, everything is new.
    again = saved({**before, "since": "2026-11-26T09:00:00Z"}, "before.json")
    assert monitor("--statistics", path, "--since", again).stdout == monitor("--statistics", path).stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--statistics", "/nowhere"], "/nowhere cannot be read (No such file or directory); name a file"),
        (["--url", "http://127.0.0.1:1"], "http://127.0.0.1:1/statistics cannot be read (Connection refused); is `im2"),
        (["--url", "ftp://host"], "ftp://host is not the address of a service, such as http://127.0.0.1:8501"),
        (["--url", "http://[x"], "http://[x is not the address of a service, such as http://127.0.0.1:8501"),
        (["--url", "localhost"], "localhost is not the address of a service, such as http://127.0.0.1:8501"),
        (["--url", "http://a", "--statistics", "b"], "give either --url or --statistics, not both"),
        (["--threshold", "colour=1"], "--threshold: there is no feature 'colour'; there are width, height,"),
        (["--threshold", "width=2"], "--threshold: width takes a number above 0 and at most 1, not '2'"),
        (["--threshold", "width"], "--threshold: width takes a number above 0 and at most 1, not ''"),
    ],
)
def test_every_error_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        cli.run(["monitor", *arguments])
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)
    assert refused.value.exit_status == 1


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("no JSON", "it is not a JSON object"),
        ([1], "is not what `im2latex serve` answers"),
        ({"version": "7"}, "it has no 'since'"),
        ({**answer(), "serving": {"width": {"bounds": [1]}}}, ""),
        ({**answer(), "training": 3}, "statistics have to be an object"),
        ({**answer(), "training": {}}, "version 7 has no statistics of its training examples"),
    ],
)
def test_an_answer_that_cannot_be_compared_is_one_sentence(document: Any, sentence: str, saved: Any) -> None:
    path = saved(document)
    if not sentence:  # bins of another version
        assert cli.run(["monitor", "--statistics", path]) == 0
        return
    with pytest.raises(UserError) as refused:
        cli.run(["monitor", "--statistics", path])
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
