"""The artifacts of a small run: data, examples, a model with coarse and fine attention, logs, an evaluation."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf

from components.evaluator.gate import judge, parse
from components.evaluator.slices import slices_of
from components.evaluator.summary import BASELINE, CANDIDATE, PREDICTIONS, Evaluation
from components.formula_metrics.scores import statistics, values
from components.metadata import CACHED, RAN, Output, Step
from components.report.predictions import Evaluated, read_predictions
from components.report.report_page import render
from components.report.reported_run import ReportedRun, Setting
from data.dataset.record import Record, encode
from data.dataset.tfrecords import frame
from data.dataset.writer import DatasetWriter
from data.pictures.synthetic import draw_png, formulas
from data.spelling import AS_THE_SOURCE
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.features import DESCRIPTION, SPECIAL_TEXTS
from trainer_module.trained import Trained, description
from trainer_module.weights import new_model, weights_of

GATE = ("bleu >= 0.2", "exact_match >= baseline - 0.1", "bleu >= 0.9 where length=1-9")
HOSTILE = '</script><img src=x onerror="document.title=1">'


def records(count: int, seed: int, prefix: str) -> list[Record]:
    """Draws formulas of a few tokens."""
    return [
        Record(draw_png(formula, em=11), formula, f"{prefix}{number:02}")
        for number, formula in enumerate(formulas(count, seed, level="simple", max_tokens=9))
    ]


def misread(latex: str, number: int) -> str:
    """Returns a model's prediction for a formula; every third one is right."""
    tokens = latex.split()
    return {
        0: latex,
        1: " ".join([*tokens[:-1], "\\gamma", *tokens[-1:]] if number % 2 else ["\\delta", *tokens[1:]]),
        2: " ".join(tokens[:-1]),
    }[number % 3]


def write_examples(folder: Path, splits: dict[str, Sequence[Record]]) -> None:
    """Writes an Examples artifact like ImportExampleGen's, with two files per split."""
    for split, content in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        half = len(content) // 2
        for file, part in enumerate((content[:half], content[half:])):
            with gzip.open(folder / f"Split-{split}" / f"data_tfrecord-{file:05d}-of-00002.gz", "wb") as stream:
                for record in part:
                    stream.write(frame(encode(record)))


def write_data(folder: Path, splits: dict[str, Sequence[Record]]) -> None:
    """Writes a data set with some rejected records."""
    with DatasetWriter(folder, source="drawn for a test", details={"seed": 3}, allow_rejects=0.5) as writer:
        for split, content in splits.items():
            for record in content:
                writer.write(split, record)
        for number in range(4):
            writer.reject("train", f"broken{number}.png", "undecodable image")
        writer.reject("test", HOSTILE, f"bad name {HOSTILE}")


def write_model(folder: Path, latex: Sequence[str], attention: str = "hierarchical") -> Trained:
    """Writes the parts of an exported model that a report reads, description and weights, without the slow graph."""
    tokens = sorted({token for formula in latex for token in formula.split()} | {"\\gamma", "\\delta"})
    keras.utils.set_random_seed(5)
    image = ImageConfig(max_height=32, max_width=96, border=2)
    config = ModelConfig(filters=(4, 4, 6, 6, 8, 8), decoder_units=16, embedding_units=8, attention=attention)
    vocabulary = [*SPECIAL_TEXTS, *tokens]
    model = new_model(config, image, vocabulary)
    random = np.random.default_rng(4)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, 0.8, weight.shape))  # sharper than at the start
    trained = Trained(config, image, vocabulary, 20, weights_of(model))
    variables = {name: tf.Variable(value) for name, value in trained.weights.items()}
    tf.train.Checkpoint(weights=list(variables.values())).write(str(folder / "variables" / "variables"))
    (folder / DESCRIPTION).parent.mkdir()
    (folder / DESCRIPTION).write_text(json.dumps(description(trained) | {"weights": list(variables)}), "utf-8")
    return trained


def write_logs(folder: Path, epochs: int = 3) -> None:
    """Writes the scalars of a training like Keras."""
    for kind in ("train", "validation"):
        writer = tf.summary.create_file_writer(str(folder / kind))
        with writer.as_default():
            for epoch in range(epochs):
                loss = 3.0 / (epoch + 1) + (kind == "validation") * 0.25 * epoch
                tf.summary.scalar("epoch_loss", loss, step=epoch)
                tf.summary.scalar("epoch_perplexity", np.exp(loss), step=epoch)
                if kind == "train":
                    tf.summary.scalar("epoch_learning_rate", 0.1 / 2**epoch, step=epoch)
        writer.close()


def write_evaluation(
    folder: Path, examples: Sequence[Record], reads: dict[str, list[str]], gate: Sequence[str] = GATE
) -> Evaluation:
    """Writes the files of an evaluation; a model's log-probabilities decrease from example to example."""
    folder.mkdir(parents=True)
    targets = [record.latex for record in examples]
    columns: dict[str, object] = {"name": [record.name for record in examples], "target": targets}
    columns |= {"width": pa.array([50] * len(targets), pa.int32()), "height": pa.array([20] * len(targets), pa.int32())}
    sure = np.exp(-0.1 * np.arange(1, len(targets) + 1))
    counted = {
        model: statistics(targets, read, "builtin", spelling=AS_THE_SOURCE, probabilities=sure)
        for model, read in reads.items()
    }
    for model, read in reads.items():
        columns[model] = read
        columns[f"{model}_log_probability"] = pa.array(-0.1 * np.arange(1, len(read) + 1), pa.float32())
        columns[f"{model}_statistics"] = pa.array(list(counted[model]), pa.list_(pa.int64()))
    of = [slices_of(target, 20, 50) for target in targets]
    slices: dict[str, dict] = {}
    names = sorted({f"{key}={value}" for one in of for key, labels in one.items() for value in labels})
    for name in ["", *names]:
        key, _, value = name.partition("=")
        inside = np.array([not name or value in one[key] for one in of])
        slices[name] = {"examples": int(inside.sum())}
        slices[name] |= {model: values(rows[inside]) for model, rows in counted.items()}
    pyarrow.parquet.write_table(pa.table(columns), str(folder / PREDICTIONS))
    verdicts = []
    for rule in map(parse, gate):
        scores = slices.get(rule.slice, {})
        verdicts.append(judge(rule, *(scores.get(model, {}).get(rule.score) for model in (CANDIDATE, BASELINE))))
    about = {model: {"seconds": 1.25, "vocabulary": 40} for model in reads}
    evaluation = Evaluation(len(targets), "builtin", about, slices, verdicts)
    evaluation.write(folder)
    return evaluation


@dataclasses.dataclass(frozen=True)
class Material:
    """A run, and the data that its artifacts were made from."""

    run: ReportedRun
    examples: list[Record]  # evaluated
    reads: list[str]  # by the candidate
    trained: Trained
    evaluation: Evaluation


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A run with a blessed model and a baseline; one image is a scaled photograph, one name and formula are hostile."""
    folder = tmp_path_factory.mktemp("run")
    train, test = records(24, 3, "train"), records(15, 8, "test")
    test[4] = dataclasses.replace(test[4], name=HOSTILE, latex=f"x {HOSTILE} y")
    test[7] = dataclasses.replace(test[7], latex="x + \\frac {")
    reads = [misread(record.latex, number) for number, record in enumerate(test)]
    reads[4] = f"z {HOSTILE} y"
    before = [record.latex if number % 4 == 0 else "x" for number, record in enumerate(test)]
    splits = {"train": train, "eval": train[:4], "test": test}
    write_data(folder / "data", splits)
    write_examples(folder / "examples", splits)
    trained = write_model(folder / "model" / "Format-Serving", [*(r.latex for r in train), *reads])
    write_logs(folder / "model_run" / "logs")
    evaluation = write_evaluation(folder / "evaluation", test, {CANDIDATE: reads, BASELINE: before})
    check = {"blessed": 1, "seconds_to_load": 2.5, "seconds_per_image": 0.0071, "seconds_per_image_p99": 0.0123}
    artifacts = {
        "examples": Output(str(folder / "examples"), 1),
        "transform_graph": Output(str(folder / "transform_graph"), 5),
        "model": Output(str(folder / "model"), 7),
        "model_run": Output(str(folder / "model_run"), 8),
        "baseline": Output(str(folder / "baseline"), 9, {"serving_version": "1700000000"}),
        "evaluation": Output(str(folder / "evaluation"), 11),
        "blessing": Output(str(folder / "blessing"), 10, {"blessed": 0}),
        "serving_check": Output(str(folder / "check"), 12, {**check, "peak_memory": 612_000_000}),
        "pushed_model": Output(str(folder / "pushed"), 13, {"pushed": 0}),
    }
    steps = [
        Step("ImportExampleGen", CACHED, 1, "2020-01-01T10:00:00", 4_000_000_000_000, 4_000_000_002_700),
        Step("Trainer", RAN, 6, "2020-01-02T10:00:00", 4_000_000_010_000, 4_000_000_180_000),
    ]
    settings = [Setting("training.epochs", 3, "passes over the data"), Setting("name", HOSTILE, "its name")]
    (folder / "serving" / "1700000000").mkdir(parents=True)
    places = str(folder / "data"), "test", str(folder / "serving")
    run = ReportedRun("im2latex", "2020-01-02T10:00:00", steps, artifacts, settings, *places)
    return Material(run, test, reads, trained, evaluation)


@pytest.fixture(scope="session")
def evaluated(material: Material) -> Evaluated:
    """The predictions of `material`."""
    return read_predictions(Path(material.run.artifacts["evaluation"].uri, PREDICTIONS), CANDIDATE)


@pytest.fixture(scope="session")
def page(material: Material) -> str:
    """The report of `material`."""
    return render(material.run)
