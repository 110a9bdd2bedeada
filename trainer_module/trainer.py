"""The entry point of TFX's Trainer: reads transformed examples, trains and exports the model."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from data.parallel import ProcessPool
from im2latex.errors import UserError
from im2latex.statistics import to_document
from im2latex.weights import WEIGHTS
from trainer_module import features, reader
from trainer_module.batching import Batch, padding, plan, rounded
from trainer_module.calibration import EXAMPLES, calibrate, calibrated
from trainer_module.config.decoding import DecodingConfig
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import PRECISION, TrainingConfig
from trainer_module.examples import Example, Examples
from trainer_module.feeding import feeders
from trainer_module.hyperparameters import DROPOUT, LEARNING_RATE, WIDTH, in_words
from trainer_module.model import FormulaModel
from trainer_module.signatures import FormulaReader, read_exported
from trainer_module.statistics import of_transformed
from trainer_module.trained import Trained, load_weights
from trainer_module.training import DTYPES, Progress, choose_precision, train, training_digest
from trainer_module.weights import average, extended, new_model, warm_start, weights_of
from trainer_module.widening import widened

log = logging.getLogger(__name__)

PARSED_AT_ONCE = 256
BATCH_SPEC = Batch(
    {
        "image": tf.TensorSpec((None, None, None, 1), tf.uint8),
        "size": tf.TensorSpec((None, 2), tf.int32),
        "tokens": tf.TensorSpec((None, None), tf.int32),
    },
    tf.TensorSpec((None, None), tf.int32),
    tf.TensorSpec((None, None), tf.float32),
)


def run_fn(fn_args: FnArgs) -> None:
    """Trains a model and writes it to `fn_args.serving_model_dir`.

    Args:
        fn_args: TFX's arguments. `custom_config["config"]` is JSON with the sections `image`, `vocabulary`,
            `model`, `training` and `decoding`; `custom_config["spelling"]` is the spelling of the formulas, as in
            `data.spelling.respell`; `custom_config["checkpoints"]` is an optional folder for checkpoints, from which
            an interrupted training continues. `hyperparameters`, from Tuner, override the configuration.
    """
    config = json.loads(fn_args.custom_config["config"])
    decoding = DecodingConfig(**config.pop("decoding"))
    model_config, training_config = ModelConfig(**config["model"]), TrainingConfig(**config["training"])
    if fn_args.hyperparameters:
        values = fn_args.hyperparameters["values"]
        log.info("hyperparameters of Tuner: %s", in_words(values))
        model_config, training_config = applied(model_config, training_config, values)
        config |= {"model": dataclasses.asdict(model_config), "training": dataclasses.asdict(training_config)}
    transform = tft.TFTransformOutput(fn_args.transform_output)
    run = Path(fn_args.model_run_dir)
    inputs = prepare(config["image"], training_config, fn_args.train_files, fn_args.eval_files, transform, run)
    wasted = padding(inputs.training, plan(inputs.training, training_config.batch_size, training_config.seed, 0))
    log.info("padding: %.1f %% of pixels, %.1f %% of token steps", 100 * wasted.pixels, 100 * wasted.steps)

    checkpoints = None
    if folder := fn_args.custom_config.get("checkpoints"):
        checkpoints = Path(folder) / training_digest(config, inputs.vocabulary, inputs.training)
    dtype = choose_precision(training_config, model_config, inputs.image, inputs.vocabulary, inputs.training)
    if training_config.precision == "auto":  # record the choice, so that the run can be reproduced
        chosen = next(name for name, policy in DTYPES.items() if policy == dtype)
        (run / PRECISION).write_text(f"{chosen}\n", "utf-8")
    with ProcessPool(feeders(), with_main=False) as pool:
        model, progress = fit(
            inputs, model_config, training_config, dtype, pool=pool, checkpoints=checkpoints, logs=run / "logs"
        )
    log.info("validation perplexity %.4f, best of %d epochs", progress.best, progress.epoch)
    limit = training_config.max_tokens
    statistics = to_document(of_transformed(inputs.training))
    trained = Trained(
        model_config, inputs.image, inputs.vocabulary, limit, weights_of(model), decoding, statistics=statistics
    )
    sample = inputs.validation[:: -(-len(inputs.validation) // EXAMPLES)]
    fitted = calibrate(
        trained,
        [(one.image, _text(one.tokens, inputs.vocabulary)) for one in sample],
        normalised=True,
        spelling=fn_args.custom_config["spelling"],
    )
    log.info(
        "calibration error %.3f, %.3f before, on %d validation examples", fitted.after, fitted.before, fitted.examples
    )
    trained = calibrated(trained, fitted)
    FormulaReader(trained, TransformedImages(transform)).save(fn_args.serving_model_dir)
    if checkpoints is not None:  # the training has finished; the next one starts from the beginning
        shutil.rmtree(checkpoints)


def applied(
    model: ModelConfig, training: TrainingConfig, values: Mapping[str, float]
) -> tuple[ModelConfig, TrainingConfig]:
    """Returns a configuration with hyperparameters in place of its own.

    Args:
        model, training: the configuration.
        values: `learning_rate`, `dropout`, and `width`, a factor of the filters and of the decoder's units; a missing
            one changes nothing.
    """
    width = values.get(WIDTH, 1.0)
    wider = dataclasses.replace(
        model,
        filters=tuple(max(1, round(width * filters)) for filters in model.filters),  # type: ignore[arg-type]  # six
        decoder_units=max(2, 2 * round(width * model.decoder_units / 2)),  # the row encoder's two directions share it
        dropout=values.get(DROPOUT, model.dropout),
    )
    return wider, dataclasses.replace(training, learning_rate=values.get(LEARNING_RATE, training.learning_rate))


class TrainingInputs(NamedTuple):
    """Inputs of a training, in addition to the configuration of the model and of the training."""

    image: ImageConfig
    vocabulary: list[str]
    start: Trained | None  # the model that it starts from
    training: Examples
    validation: Examples


def prepare(
    image: Mapping[str, int],
    config: TrainingConfig,
    train_files: Sequence[str],
    eval_files: Sequence[str],
    transform: tft.TFTransformOutput,
    folder: Path,
) -> TrainingInputs:
    """Reads what a training needs.

    Args:
        image: the section `image` of the configuration.
        config: settings of the training.
        train_files, eval_files: file patterns of transformed examples, from TFX.
        transform: Transform's output.
        folder: where to keep the examples; made if it is missing.

    Raises:
        UserError: no example is left, or the model to start from is missing or damaged.
    """
    vocabulary = features.read_vocabulary(transform)
    start = load_start(config.start_from) if config.start_from else None
    if start is not None:
        vocabulary = extended(vocabulary, start.vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    training = read_examples(train_files, transform, config.max_tokens, folder)
    validation = read_examples(eval_files, transform, config.max_tokens, folder)
    return TrainingInputs(ImageConfig(**image), vocabulary, start, training, validation)


def fit(
    inputs: TrainingInputs,
    model_config: ModelConfig,
    config: TrainingConfig,
    dtype: str,
    *,
    pool: ProcessPool,
    checkpoints: Path | None,
    logs: Path | None = None,
    show: bool = True,
) -> tuple[FormulaModel, Progress]:
    """Makes a model and trains it, on all GPUs; arguments and errors as in `training.train`."""
    keras.utils.set_random_seed(config.seed)
    with strategy().scope():
        model = new_model(model_config, inputs.image, inputs.vocabulary, dtype)
        if inputs.start is not None:
            weights = widened(inputs.start, model_config, config.seed)
            fresh = warm_start(model, inputs.vocabulary, weights, inputs.start.vocabulary)
            log.info(
                "started from %s: %d of %d tokens known, new weights: %s",
                config.start_from,
                len(inputs.start.vocabulary),
                len(inputs.vocabulary),
                ", ".join(fresh) or "none",
            )
        progress = train(
            model,
            config,
            inputs.training,
            inputs.validation,
            checkpoints=checkpoints,
            logs=logs,
            feed=as_dataset,
            pool=pool,
            show=show,
            glyph_size=inputs.image.glyph_size,
        )
        if inputs.start is not None and config.start_share:
            average(model, inputs.vocabulary, weights, inputs.start.vocabulary, config.start_share)
    return model, progress


def load_start(name: str) -> Trained:
    """Loads the model that a training starts from.

    Args:
        name: `reader`, the folder of a pushed SavedModel, a folder with weights, or a file of weights.

    Raises:
        UserError: the model is missing or damaged.
    """
    if name == reader.NAME:
        return reader.load()
    path = Path(name)
    return load_weights(path) if path.is_file() or (path / WEIGHTS).exists() else read_exported(path)


class TransformedImages(tf.Module):
    """Image normalisation for `FormulaReader` that uses Transform's graph."""

    def __init__(self, transform: tft.TFTransformOutput) -> None:
        super().__init__()
        self.layer = transform.transform_features_layer()

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        nothing = tf.fill(tf.shape(images), "")
        return self.layer({features.IMAGE: images, features.LATEX: nothing, features.NAME: nothing})


def strategy() -> tf.distribute.Strategy:
    """Returns a strategy that uses all GPUs if there are several, otherwise the default one."""
    gpus = tf.config.list_logical_devices("GPU")
    log.info("training on %s", f"{len(gpus)} GPU" if gpus else "the CPU")
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def as_dataset(source: Callable[[], Iterator[Batch]]) -> tf.data.Dataset:
    """Converts batches to a dataset with unspecified sizes, so that one graph handles all batches.

    The sizes are rounded up, so that there are few different ones.
    With several GPUs, batches are filled up to a multiple of their number, because no GPU can process zero examples.
    """
    devices = tf.distribute.get_strategy().num_replicas_in_sync
    return tf.data.Dataset.from_generator(
        lambda: (tuple(_filled(rounded(batch), devices)) for batch in source()), output_signature=tuple(BATCH_SPEC)
    ).prefetch(4)


def _filled(batch: Batch, multiple: int) -> Batch:
    """Repeats the last example of a batch, at zero weight, until its length is a multiple of `multiple`."""
    missing = -len(batch.weights) % multiple
    if not missing:
        return batch
    inputs, targets, weights = tf.nest.map_structure(lambda part: np.concatenate([part, *[part[-1:]] * missing]), batch)
    weights[-missing:] = 0
    return Batch(inputs, targets, weights)


def read_examples(patterns: Sequence[str], transform: tft.TFTransformOutput, max_tokens: int, folder: Path) -> Examples:
    """Reads transformed examples, sorted by their bytes, without formulas that are too long.

    Args:
        patterns: file patterns of gzipped TFRecords, from TFX.
        transform: Transform's output, which specifies the features.
        max_tokens: longer formulas are left out; their number is printed.
        folder: where to keep the examples, in a file that disappears when the process ends.

    Raises:
        UserError: no example is left.
    """
    files = tf.data.Dataset.list_files(list(patterns), shuffle=False)
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(PARSED_AT_ONCE)
    spec = transform.transformed_feature_spec()
    left_out = 0

    def short_enough() -> Iterator[Example]:
        nonlocal left_out
        for serialized in dataset:
            batch = tf.io.parse_example(serialized, spec)
            for png, height, width, ids in zip(
                batch[features.IMAGE].numpy(),
                batch[features.HEIGHT].numpy().tolist(),
                batch[features.WIDTH].numpy().tolist(),
                _rows(batch[features.TOKENS]),
                strict=True,
            ):
                if len(ids) > max_tokens:
                    left_out += 1
                else:
                    yield Example(png, height, width, ids)

    # Beam may write examples in a different order each time, and a training depends on the order.
    examples = Examples.write_sorted(short_enough(), folder)
    log.info("%d examples, %d left out with more than %d tokens", len(examples), left_out, max_tokens)
    if left_out:  # print it, because users follow a training on standard output
        total = len(examples) + left_out
        print(f"{left_out:,} of {total:,} formulas are left out: more than {max_tokens} tokens (training.max_tokens)")
    if not examples:
        raise UserError(
            f"no example is left in {', '.join(patterns)}: {left_out} have more than {max_tokens} tokens; "
            "raise training.max_tokens or check the data"
        )
    return examples


def _text(tokens: np.ndarray, vocabulary: Sequence[str]) -> str:
    return " ".join(vocabulary[token] for token in tokens.tolist())


def _rows(tokens: tf.SparseTensor) -> list[np.ndarray]:
    """Returns the token ids of each example, int32, (length,)."""
    ragged = tf.RaggedTensor.from_sparse(tokens)
    return np.split(ragged.values.numpy().astype(np.int32), ragged.row_splits.numpy()[1:-1])
