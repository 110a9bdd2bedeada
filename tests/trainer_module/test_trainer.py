from __future__ import annotations

import ast
import functools
import io
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tfx.components.trainer.fn_args_utils import FnArgs

import trainer_module
from data.spelling import NORMAL
from im2latex.errors import UserError
from im2latex.reader import Reader
from im2latex.statistics import from_document, of_values
from tests.trainer_module.test_training import without_graphs
from trainer_module import reader, trainer
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.examples import Example
from trainer_module.features import UNKNOWN, read_vocabulary
from trainer_module.feeding import batches
from trainer_module.model import FormulaModel
from trainer_module.signatures import FormulaReader, read_exported
from trainer_module.trained import load_weights, save_weights
from trainer_module.trainer import load_start, read_examples, run_fn
from trainer_module.training import choose_precision

MODEL = {"filters": [2, 2, 2, 2, 3, 3], "decoder_units": 6, "embedding_units": 4, "dropout": 0.2}
TRAINING = {
    "epochs": 2, "batch_size": 5, "optimizer": "adam", "learning_rate": 0.01, "schedule": "cosine", "max_tokens": 8,
}  # fmt: skip


def arguments(transformed, folder: Path, **training) -> FnArgs:
    config = transformed.config | {"model": MODEL, "training": TRAINING | training, "decoding": {}}
    return FnArgs(
        train_files=[transformed.examples],
        eval_files=[transformed.examples],
        transform_output=transformed.output,
        serving_model_dir=str(folder / "Format-Serving"),
        model_run_dir=str(folder / "run"),
        custom_config={"config": json.dumps(config), "spelling": NORMAL, "checkpoints": str(folder / "checkpoints")},
    )


@pytest.fixture(scope="module")
def trained(transformed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run_fn(arguments(transformed, folder))
    return folder


def test_the_trained_model_reads_images(trained, transformed):
    read = tf.saved_model.load(str(trained / "Format-Serving")).signatures["predict_images"]
    got = read(images=tf.constant(transformed.images))
    assert got["latex"].shape == (12,)
    assert (got["log_probability"].numpy() < 0).all()


def test_tensorboard_has_the_losses(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for part in ("train", "validation"):
        events = EventAccumulator(str(trained / "run" / "logs" / part), size_guidance={"tensors": 0}).Reload()
        losses = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors("epoch_loss")]
        assert len(losses) == 2
        assert np.isfinite(losses).all()


def test_the_model_has_the_statistics_of_what_it_learned_from(trained, transform, transformed):
    examples = read_examples([transformed.examples], transform, TRAINING["max_tokens"], trained)
    pictures = [np.array(Image.open(io.BytesIO(example.image))) for example in examples]
    statistics = Reader(trained / "Format-Serving").statistics
    assert statistics == from_document(read_exported(trained / "Format-Serving").statistics)
    for name, values in (
        ("width", [picture.shape[1] for picture in pictures]),
        ("height", [picture.shape[0] for picture in pictures]),
        ("ink", [(picture < 128).mean() for picture in pictures]),
        ("length", [len(example.tokens) for example in examples]),
        ("unknown", [token == UNKNOWN for example in examples for token in example.tokens.tolist()]),
    ):
        assert statistics[name].counts == of_values(name, values).counts
        assert statistics[name].mean == pytest.approx(np.mean(values), abs=1e-5)
    assert statistics["confidence"].count == len(examples)  # those to validate on are the same


def test_a_finished_training_leaves_no_checkpoints(trained):
    assert not list((trained / "checkpoints").iterdir())


def test_a_model_that_starts_from_another_one_has_its_tokens_too(trained, transform, transformed, tmp_path, caplog):
    exported = read_exported(trained / "Format-Serving")
    # As if the other model had been trained on formulas without the last token, and with "new" in its place.
    other = exported._replace(vocabulary=[*exported.vocabulary[:-1], "new"])
    save_weights(tmp_path / "start.npz", other)
    # A rate at which nothing is learnt.
    settings = {"epochs": 1, "learning_rate": 1e-30, "start_from": str(tmp_path / "start.npz")}
    with without_graphs(), caplog.at_level(logging.INFO, logger=trainer.__name__):
        run_fn(arguments(transformed, tmp_path, **settings))
    started = read_exported(tmp_path / "Format-Serving")
    assert started.vocabulary == [*read_vocabulary(transform), "new"]
    assert f"{len(other.vocabulary)} of {len(started.vocabulary)} tokens known, new weights: none" in caplog.text
    rows = [started.vocabulary.index(token) for token in other.vocabulary]
    for name, axis in (("embedding/embeddings", 0), ("decoder/logits_kernel", 1)):
        np.testing.assert_array_equal(started.weights[name].take(rows, axis), other.weights[name])
    np.testing.assert_array_equal(started.weights["encoder/conv1/kernel"], other.weights["encoder/conv1/kernel"])


def test_a_share_of_the_model_to_start_from_stays(trained, transformed, tmp_path):
    start = read_exported(trained / "Format-Serving")
    settings = {"epochs": 1, "learning_rate": 0.05, "start_from": str(trained / "Format-Serving")}
    kept = {}
    for share in (0.0, 0.75):
        with without_graphs():
            run_fn(arguments(transformed, tmp_path / str(share), **settings, start_share=share))
        kept[share] = read_exported(tmp_path / str(share) / "Format-Serving").weights["encoder/conv1/kernel"]
    old = start.weights["encoder/conv1/kernel"]
    assert np.abs(kept[0.0] - old).max() > 1e-3
    np.testing.assert_allclose(kept[0.75], 0.25 * kept[0.0] + 0.75 * old, rtol=1e-3, atol=1e-5)


def test_a_training_can_start_from_each_kind_of_model(trained, tmp_path):
    exported = read_exported(trained / "Format-Serving")
    save_weights(tmp_path / "weights.npz", exported)
    for name in (trained / "Format-Serving", tmp_path, tmp_path / "weights.npz"):
        assert load_start(str(name)).vocabulary == exported.vocabulary
    assert load_start("reader").vocabulary == load_weights(reader.weights_file()).vocabulary


def test_a_missing_model_to_start_from_is_a_user_error(transformed, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a model that this pipeline exported"):
        run_fn(arguments(transformed, tmp_path, start_from=str(tmp_path / "nowhere")))


def test_precision_is_chosen_by_measuring(tmp_path, transformed, transform, caplog):
    examples = read_examples([transformed.examples], transform, 8, tmp_path)
    vocabulary, image = read_vocabulary(transform), ImageConfig(**transformed.config["image"])

    def choose(precision):
        config = TrainingConfig(**TRAINING | {"precision": precision})
        return choose_precision(config, ModelConfig(**MODEL), image, vocabulary, examples)

    assert [choose(name) for name in ("float32", "bfloat16")] == ["float32", "mixed_bfloat16"]
    with without_graphs(), caplog.at_level(logging.INFO):
        chosen = choose("auto")
    (line,) = (record.getMessage() for record in caplog.records if "seconds a step" in record.getMessage())
    seconds = ast.literal_eval(line[line.index("{") : line.index("}") + 1])
    assert chosen == {"float32": "float32", "bfloat16": "mixed_bfloat16"}[min(seconds, key=seconds.get)]


def test_only_the_same_training_continues_from_its_checkpoints(transformed, tmp_path, monkeypatch):
    epochs, exported = [], []
    fit = FormulaModel.fit

    def counted(model, *arguments, **options):
        epochs.append(options["initial_epoch"])
        return fit(model, *arguments, **options)

    def killed(*_):
        raise KeyboardInterrupt

    def run(**training) -> None:
        with without_graphs():
            run_fn(arguments(transformed, tmp_path, epochs=1, **training))

    monkeypatch.setattr(FormulaModel, "fit", counted)
    monkeypatch.setattr(FormulaReader, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    (kept,) = (tmp_path / "checkpoints").iterdir()
    assert epochs == [0]
    monkeypatch.setattr(FormulaReader, "save", lambda reader, folder: exported.append(folder))
    # Another configuration starts from the beginning and does not touch the checkpoints of the first.
    run(seed=7)
    assert epochs == [0, 0]
    assert list((tmp_path / "checkpoints").iterdir()) == [kept]
    # The first has nothing to learn any more: it is exported, and its checkpoints go.
    run()
    assert epochs == [0, 0]
    assert exported == [str(tmp_path / "Format-Serving")] * 2
    assert not kept.exists()


def test_examples_are_those_that_transform_wrote(tmp_path, transformed, transform):
    examples = read_examples([transformed.examples], transform, 8, tmp_path)
    vocabulary = read_vocabulary(transform)
    read = sorted(" ".join(vocabulary[token] for token in example.tokens) for example in examples)
    assert read == sorted(transformed.latex)
    for example in examples:
        image = tf.io.decode_png(example.image)
        assert image.shape == (example.height, example.width, 1)


def test_formulas_over_the_limit_are_left_out_and_counted(tmp_path, transformed, transform, caplog, capsys):
    lengths = [len(latex.split()) for latex in transformed.latex]
    assert min(lengths) < 6 < max(lengths)
    short = sum(length <= 6 for length in lengths)
    with caplog.at_level(logging.INFO, logger=trainer.__name__):
        examples = read_examples([transformed.examples], transform, 6, tmp_path)
    assert len(examples) == short
    assert max(len(example.tokens) for example in examples) <= 6
    assert f"{short} examples, {12 - short} left out with more than 6 tokens" in caplog.text
    reported = f"{12 - short} of 12 formulas are left out: more than 6 tokens (training.max_tokens)\n"
    assert capsys.readouterr().out == reported
    read_examples([transformed.examples], transform, max(lengths), tmp_path)
    assert capsys.readouterr().out == ""


def test_no_formula_left_is_a_user_error(transformed, tmp_path):
    with pytest.raises(
        UserError, match=r"no example is left .* 12 have more than 1 tokens; raise training\.max_tokens"
    ):
        run_fn(arguments(transformed, tmp_path, max_tokens=1))


def test_a_dataset_has_the_batches_of_any_size_in_one_element(tmp_path, transformed, transform):
    examples = read_examples([transformed.examples], transform, 8, tmp_path)
    planned = [np.array([0, 1, 2]), np.array([3])]
    elements = list(trainer.as_dataset(functools.partial(batches, examples, planned)))
    assert [batch[1].shape[0] for batch in elements] == [3, 1]
    assert elements[0][0]["image"].dtype == tf.uint8


def test_a_dataset_has_batches_of_rounded_sizes():
    file = io.BytesIO()
    Image.new("L", (8 * 16 + 1, 8)).save(file, "PNG")
    one = Example(file.getvalue(), 8, 8 * 16 + 1, np.arange(4, 12, dtype=np.int32))
    ((inputs, targets, weights),) = trainer.as_dataset(functools.partial(batches, [one], [np.array([0])]))
    assert (inputs["image"].shape, targets.shape) == ((1, 8, 8 * 18, 1), (1, 10))
    assert weights.numpy().sum() == 9


ON_TWO_DEVICES = """
import json, sys
from pathlib import Path
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from tests.trainer_module import test_trainer
from tests.trainer_module.conftest import Transformed
from trainer_module import trainer

losses = []
train = trainer.train
def kept(*arguments, **options):
    progress = train(*arguments, **options)
    losses.extend(progress.perplexities)
    return progress
trainer.train = kept
trainer.strategy = lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
transformed = Transformed(*json.loads(sys.argv[1]), [], [])
arguments = test_trainer.arguments(transformed, Path(sys.argv[2]), batch_size=11)

def killed(*_):
    raise KeyboardInterrupt
save, trainer.FormulaReader.save = trainer.FormulaReader.save, killed
try:
    trainer.run_fn(arguments)
except KeyboardInterrupt:
    trainer.FormulaReader.save = save
    trainer.run_fn(arguments)  # goes on from the checkpoints of the first
print(json.dumps(losses))
"""


@pytest.mark.integration
def test_several_devices_learn_and_export_together(transformed, tmp_path):
    """With 12 examples in batches of 11, the last batch has fewer examples than devices."""
    folder = Path(trainer_module.__file__).parents[1]
    parameters = json.dumps([transformed.config, transformed.output, transformed.examples])
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES, parameters, tmp_path],
        env=os.environ | {"PYTHONPATH": str(folder)}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    losses = json.loads(done.stdout.splitlines()[-1])
    assert losses[:2] == losses[2:]  # two epochs, and the same ones from the checkpoints
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    read = tf.saved_model.load(str(tmp_path / "Format-Serving")).signatures["predict_images"]
    assert np.isfinite(read(images=tf.constant(transformed.images))["log_probability"]).all()


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_a_batch_for_several_devices_is_filled_at_zero_weight(tmp_path, transformed, transform, devices, monkeypatch):
    examples = read_examples([transformed.examples], transform, 8, tmp_path)[:4]
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: SimpleNamespace(num_replicas_in_sync=devices))
    inputs, targets, weights = next(iter(trainer.as_dataset(functools.partial(batches, examples, [np.arange(4)]))))
    length = {1: 4, 2: 4, 3: 6}[devices]
    assert [part.shape[0] for part in (*inputs.values(), targets, weights)] == [length] * 5
    expected = next(batches(examples, [np.arange(4)]))
    np.testing.assert_array_equal(weights[:4], expected.weights)
    np.testing.assert_array_equal(inputs["image"][:4], expected.inputs["image"])
    assert not weights[4:].numpy().any()
