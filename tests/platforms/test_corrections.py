"""A model misreads a symbol. After ten corrections, the next model reads it, and everything else as before."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from components.evaluator.summary import BASELINE, CANDIDATE, read_evaluation
from data.dataset.record import Record
from data.dataset.writer import DatasetWriter
from data.pictures.synthetic import draw_png
from im2latex.corrections import Corrections
from im2latex.models import pushed
from tests.end_to_end.test_gate import latest
from tests.im2latex.serving.conftest import LIMITS, Running, running
from tests.im2latex.serving.test_corrections import save
from tests.project import Project

pytestmark = pytest.mark.one_stack

SETTINGS = """
preset = "quickstart"

[data]
source = "{old}"

[image]
max_height = 32
max_width = 64

[vocabulary]
min_count = 1

[model]
filters = [8, 16, 16, 16, 32, 32]
decoder_units = 32
embedding_units = 8

[training]
epochs = 20
augmentation = 0.5
batch_size = 16
max_tokens = 4
learning_rate = 0.01
warmup_steps = 20

[evaluation]
gate = ["exact_match >= 0.9"]

[serving]
check_images = 4
"""

# The first model learns two-digit numbers of the digits KNOWN; people correct those that begin with NEW.
KNOWN, NEW = "12345", "7"
OLD_EMS = [15 + i / 8 for i in range(13)]  # pixels; glyphs come in sizes of eighths of a pixel
# Of the corrections: each number in two sizes.
CORRECTED_EMS = [15 + i * 3 / 20 for i in range(10)]
GATE = [
    "exact_match >= 1 where source=corrections",
    "exact_match >= baseline + 0.5 where source=corrections",
    "exact_match >= baseline where source=others",
]


def picture(formula: str, em: float) -> bytes:
    return draw_png(" ".join(formula), em)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("corrections")
    examples = [(a + b, em) for a, b, em in itertools.product(KNOWN, KNOWN, OLD_EMS)]
    random.Random(0).shuffle(examples)
    with DatasetWriter(folder / "old", "a test") as writer:
        for number, (formula, em) in enumerate(examples):
            split = {0: "eval", 1: "test"}.get(number % 10, "train")
            writer.write(split, Record(picture(formula, em), " ".join(formula), f"{formula}-{em}"))
    return Project.of(folder, SETTINGS.format(old=folder / "old"))


@pytest.fixture(scope="module")
def service(project: Project) -> Iterator[Running]:
    """A service with the first model that collects corrections."""
    first = project.run()
    assert first.returncode == 0, first.stdout + first.stderr
    folder = project.config.parent / "collected"
    with running(lambda: pushed(project.home / "serving"), LIMITS, Corrections(folder, 10**6)) as service:
        yield service


def read(service: Running, image: bytes) -> str:
    answer = service.ask("POST", "/predict?clean=1", image)
    assert answer.status == 200
    return answer.json["latex"]


def command(project: Project, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        capture_output=True, text=True, timeout=100, env=project.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ten_corrections_teach_a_symbol_without_other_losses(project: Project, service: Running) -> None:
    folder = project.config.parent
    (first,) = project.versions()
    for i, em in enumerate(CORRECTED_EMS):
        formula = NEW + KNOWN[i // 2]
        assert NEW not in read(service, picture(formula, em))
        assert save(service, picture(formula, em), latex=formula, name="ada").json["status"] == "saved"

    command(
        project, "data", "import", str(folder / "collected"), "--out", str(folder / "new"), "--repeat", "10",
        "--add", str(folder / "old"), "--add-share", "0.8",
    )  # fmt: skip
    second = project.run(
        "--set", f"data.source={folder / 'new'}",
        "--set", f"training.start_from={project.home / 'serving' / 'im2latex' / first}",
        "--set", "training.epochs=24",
        "--set", f"evaluation.gate={json.dumps(GATE)}",
    )  # fmt: skip
    assert second.returncode == 0, second.stdout + second.stderr
    evaluation = read_evaluation(latest(project, "Evaluator", "evaluation"))
    assert evaluation.models[BASELINE]["version"] == first and all(verdict.passed for verdict in evaluation.gate)
    corrected, others = (evaluation.slices[f"source={name}"] for name in ("corrections", "others"))
    assert corrected["examples"] == 2 and others["examples"] == 33
    assert corrected[CANDIDATE]["exact_match"] == 1 and corrected[BASELINE]["exact_match"] == 0
    assert others[CANDIDATE]["exact_match"] >= others[BASELINE]["exact_match"] >= 0.9

    # The new version is pushed, and the service loads it. It reads the corrections that it has not learned from.
    assert project.versions()[0] == first and len(project.versions()) == 2
    service.service.models.refresh()
    held_out = [file for split in ("eval", "test") for file in (folder / "collected" / split).glob("*.png")]
    assert len(held_out) == 4
    for file in held_out:
        assert read(service, file.read_bytes()) == file.with_suffix(".tex").read_text().replace(" ", "").strip()
    assert "corrections: 6 train + 2 eval + 2 test (digest " in command(project, "lineage")
    listed = (latest(project, "ImportExampleGen", "examples") / "corrections.txt").read_text().split()
    assert sorted(listed[1::2]) == sorted(file.stem for file in (folder / "collected").glob("*/*.png"))
