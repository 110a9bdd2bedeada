"""The command for training without TensorFlow, in a separate process, and the export of its model."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from packaging.version import Version

from components.formula_metrics import scores as reference
from data.pictures.synthetic import formulas
from im2latex.errors import UserError
from im2latex.weights import WEIGHTS
from tests.pipeline.models.test_export import export
from tests.pipeline.test_standalone import processed
from trainer_module.trained import load_weights

ROOT = Path(__file__).parents[2]

# First on the path: importing TensorFlow or TFX fails, even inside `try`.
POISON = """
import sys

class Poison:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "tensorflow_transform", "tfx", "typer"}:
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Poison())
"""

TINY = [
    "image.max_height=48", "image.max_width=128", "model.filters=[4,4,8,8,16,16]", "model.decoder_units=32",
    "model.embedding_units=8", "training.batch_size=8", "training.learning_rate=0.01", "training.max_tokens=12",
    "training.warmup_steps=0", "vocabulary.min_count=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return processed(tmp_path_factory.mktemp("source"), 48)


CACHE = tempfile.TemporaryDirectory()


def command(*arguments, settings=()) -> list[str]:
    knobs = [part for knob in (*TINY, *settings) for part in ("--set", knob)]
    return [sys.executable, "-m", "pipeline.standalone", *map(str, arguments), *knobs]


def environment(folder: Path) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(POISON)
    known = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "PYTEST_XDIST_WORKER")}
    # These processes share a cache of compiled code.
    compiled = {"JAX_COMPILATION_CACHE_DIR": CACHE.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    compiled["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # these trainings have few steps
    return known | compiled | {"PYTHONPATH": f"{folder}:{ROOT}", "JAX_PLATFORMS": "cpu"}


def trained(folder: Path, *arguments, settings=()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, settings=settings), capture_output=True, text=True, env=environment(folder), timeout=300
    )


def predictions(out: Path) -> dict[str, dict]:
    lines = (out / "predictions.txt").read_text("utf-8").splitlines()
    read = {}
    for heading, target, prediction in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, verdict, log_probability = heading.split()
        assert target.startswith("  target") and prediction.startswith("  prediction")
        read[name] = {
            "right": verdict == "right", "log_probability": float(log_probability),
            "target": " ".join(target.split()[1:]), "prediction": " ".join(prediction.split()[1:]),
        }  # fmt: skip
    return read


EPOCHS = 8


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    done = trained(folder, source, "--out", folder / "out", "--beam", 3, settings=[f"training.epochs={EPOCHS}"])
    assert done.returncode == 0, done.stderr
    assert "24 training and 12 validation examples" in done.stdout
    return folder / "out"


def test_a_training_without_tensorflow_writes_weights_metrics_and_predictions(out):
    assert {path.name for path in out.iterdir()} == {"checkpoints", "metrics.json", "predictions.txt", WEIGHTS}
    metrics = json.loads((out / "metrics.json").read_text())
    model = load_weights(out)
    assert metrics["examples"] == {"train": 24, "eval": 12}
    assert metrics["vocabulary"] == len(model.vocabulary)
    assert metrics["parameters"] == sum(weight.size for weight in model.weights.values())
    assert metrics["epochs"] == len(metrics["perplexities"]) == EPOCHS
    assert (metrics["hosts"], metrics["devices"]) == (1, 1)
    # At the start all tokens are equally likely; a little was learned.
    assert 1 < min(metrics["perplexities"]) < len(model.vocabulary)
    assert metrics["images_per_second"] > 0 and metrics["seconds"] > 0
    assert (metrics["greedy"]["width"], metrics["beam"]["width"]) == (1, 3)
    read = predictions(out)
    assert len(read) == 12
    targets = dict(
        zip([f"{i}.png" for i in range(48)], formulas(48, seed=3, level="simple", max_tokens=8), strict=True)
    )
    for name, answer in read.items():
        assert answer["target"] == targets[name]
        assert answer["right"] == (answer["prediction"] == answer["target"])
        assert answer["log_probability"] < 0
    # The file has all twelve examples, so the scores can be computed from it.
    pairs = [(answer["target"], answer["prediction"]) for answer in read.values()]
    expected = sum(reference.bleu_statistics(*pair) for pair in pairs)
    assert metrics["greedy"]["bleu"] == pytest.approx(reference.bleu(expected))
    assert metrics["greedy"]["exact_match"] == np.mean([answer["right"] for answer in read.values()])


def test_a_finished_training_is_not_repeated(source, out):
    before = (out / WEIGHTS).read_bytes(), json.loads((out / "metrics.json").read_text()), predictions(out)
    done = trained(out.parent, source, "--out", out, settings=[f"training.epochs={EPOCHS}"])
    assert done.returncode == 0, done.stderr
    assert "Epoch" not in done.stdout
    metrics = json.loads((out / "metrics.json").read_text())
    unlike = ("seconds", "beam")
    assert {name: value for name, value in metrics.items() if name not in unlike} == {
        name: value for name, value in before[1].items() if name not in unlike
    }
    assert load_weights(out).vocabulary and predictions(out) == before[2]


def test_a_training_stops_at_its_time_limit_with_weights_and_metrics(source, tmp_path):
    done = trained(tmp_path, source, "--out", tmp_path / "out", "--minutes", "0.0001", settings=["training.epochs=500"])
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["epochs"] == 1
    assert load_weights(tmp_path / "out").max_tokens == 12
    assert len(predictions(tmp_path / "out")) == 12


def test_ctrl_c_prints_one_sentence_and_keeps_the_checkpoint(source, tmp_path):
    process = subprocess.Popen(
        command(source, "--out", tmp_path / "out", settings=["training.epochs=100000"]),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("out/checkpoints/*/checkpoint.npz")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "im2latex: stopped; the same command continues from the last checkpoint"
    assert list(tmp_path.glob("out/checkpoints/*/checkpoint.npz"))


def test_a_training_that_starts_from_weights_keeps_their_tokens(source, out, tmp_path):
    # A learning rate at which nothing is learned, and a small vocabulary.
    settings = [f"training.start_from={out}", "training.learning_rate=1e-30", "vocabulary.min_count=12"]
    settings += ["training.start_share=0.5"]  # the average of equal weights
    done = trained(tmp_path, source, "--out", tmp_path / "out", settings=[*settings, "training.epochs=1"])
    assert done.returncode == 0, done.stderr
    assert f"started from {out}; new weights: none" in done.stdout
    before, after = load_weights(out), load_weights(tmp_path / "out")
    assert sorted(after.vocabulary) == sorted(before.vocabulary)
    rows = [after.vocabulary.index(token) for token in before.vocabulary]
    # The data has fewer tokens; the others come from the weights.
    (own,) = re.findall(r"vocabulary of (\d+)", done.stdout)
    assert int(own) < len(before.vocabulary)
    np.testing.assert_array_equal(after.weights["embedding/embeddings"][rows], before.weights["embedding/embeddings"])


def test_the_exported_model_has_the_same_predictions_as_the_training(source, out, tmp_path):
    exported = export("--weights", out, "--out", tmp_path / "made" / "model")
    assert exported.exit_code == 0, exported.output
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["model"]
    read = predictions(out)
    images = tf.constant([(source / "formula_images_processed" / name).read_bytes() for name in read])
    answers = tf.saved_model.load(str(tmp_path / "made" / "model")).signatures["predict_images"](images=images)
    assert [latex.decode() for latex in answers["latex"].numpy()] == [answer["prediction"] for answer in read.values()]
    expected = [answer["log_probability"] for answer in read.values()]
    np.testing.assert_allclose(answers["log_probability"], expected, rtol=1e-3, atol=1e-3)
    again = export("--weights", out, "--out", tmp_path / "made" / "model")
    assert isinstance(again.exception, UserError) and "model exists already" in str(again.exception)


# --- several hosts ----------------------------------------------------------------------------


# Before 0.5, JAX's exchanges overlap when it places weights on several CPU devices of several hosts, and some fail.
DEVICES = 2 if Version(version("jax")) >= Version("0.5") else 1


class Host:
    """One of two hosts on this machine; its output goes to files."""

    def __init__(self, folder: Path, number: int, port: int, *arguments, settings=()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [folder / f"{number}.{stream}" for stream in ("out", "err")]
        hosts = ("--coordinator", f"127.0.0.1:{port}", "--hosts", 2, "--host", number)
        devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
        with self.files[0].open("w") as output, self.files[1].open("w") as errors:
            self.process = subprocess.Popen(
                command(*arguments, *hosts, settings=settings),
                stdout=output, stderr=errors, env=environment(folder) | devices,
            )  # fmt: skip

    def end(self, status: int) -> tuple[str, str]:
        """Waits for the end with this status. Returns the output and the errors."""
        ended = self.process.wait(timeout=600)
        output, errors = (file.read_text() for file in self.files)
        assert ended == status, output + errors
        return output, errors


def free_port() -> int:
    """Finds a free port below those that the system gives to connections, one of which could take it meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


@contextlib.contextmanager
def two_hosts(folder: Path, *arguments, settings=((), ())) -> Iterator[list[Host]]:
    port = free_port()
    hosts = [Host(folder, i, port, *arguments, settings=settings[i]) for i in range(2)]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.process.kill()
            host.process.wait()


def test_two_hosts_train_like_one_also_after_one_of_them_died(source, out, tmp_path):
    epochs = [f"training.epochs={EPOCHS}"]
    with two_hosts(tmp_path / "first", source, "--out", tmp_path / "out", settings=(epochs, epochs)) as hosts:
        end = time.monotonic() + 600
        while not list(tmp_path.glob("out/checkpoints/*/checkpoint.npz")):
            assert all(host.process.poll() is None for host in hosts), [file.read_text() for file in hosts[0].files]
            assert time.monotonic() < end
            time.sleep(0.005)
        hosts[1].process.kill()
        _, errors = hosts[0].end(1)
    sentence = errors.splitlines()[-1]
    assert sentence.startswith("im2latex: host 0 of 2 has lost another host")
    assert sentence.endswith("; give the same command on all hosts to continue from the last checkpoint")
    assert not (tmp_path / "out" / WEIGHTS).exists()

    again = (source, "--out", tmp_path / "out", "--minutes", "60")
    with two_hosts(tmp_path / "second", *again, settings=(epochs, epochs)) as hosts:
        (output, _), (other, _) = (host.end(0) for host in hosts)
    assert f"Epoch {EPOCHS}/{EPOCHS}, " in output and f"Epoch 1/{EPOCHS}, step 3" not in output
    assert "Epoch" not in other and other.splitlines()[-1] == "host 1 of 2: done; host 0 evaluates the model"
    expected, metrics = (json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path / "out"))
    assert (metrics["run"], metrics["hosts"], metrics["devices"]) == (expected["run"], 2, 2 * DEVICES)
    np.testing.assert_allclose(metrics["perplexities"], expected["perplexities"], rtol=1e-3)
    one, both = load_weights(out).weights, load_weights(tmp_path / "out").weights
    for name, weight in one.items():
        np.testing.assert_allclose(both[name], weight, rtol=1e-2, atol=1e-3, err_msg=name)
    assert predictions(tmp_path / "out").keys() == predictions(out).keys()


def test_hosts_with_different_settings_end_with_one_sentence(source, tmp_path):
    settings = (["training.seed=1"], ["training.seed=2"])
    with two_hosts(tmp_path, source, "--out", tmp_path / "out", settings=settings) as hosts:
        for host in hosts:
            _, errors = host.end(1)
            assert errors.splitlines()[-1] == (
                "im2latex: host 1 and host 0 have different data, settings or options; "
                "give all hosts the same data, settings and options, and an --out that they share"
            )
