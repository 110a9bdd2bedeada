"""The entry point of TFX's Tuner: searches hyperparameters with short trainings, the trials.

The search is random (Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012). The values of a
trial depend on the seed and on its number only. So a search that was killed draws the same trials again, and takes the
results of those that it had finished from their records.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from keras_tuner.engine import base_tuner
from keras_tuner.engine.trial import Trial, TrialStatus
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from data.duration import duration
from data.files import write_atomically
from data.parallel import ProcessPool
from im2latex.errors import UserError
from trainer_module.batching import plan
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.config.tuning import TuningConfig
from trainer_module.feeding import feeders
from trainer_module.hyperparameters import DROPOUT, LEARNING_RATE, WIDTH, in_words
from trainer_module.trainer import applied, fit, prepare
from trainer_module.training import CHECKPOINT, Diverged, choose_precision, training_digest

log = logging.getLogger(__name__)

# What the trials are compared by, lowest first: the validation perplexity of a trial's best epoch.
OBJECTIVE = "perplexity"
# File in a trial's folder with its outcome.
OUTCOME = "outcome.json"
# Trains with hyperparameters and a folder for checkpoints, and returns the validation perplexity.
Training = Callable[[Mapping[str, float], Path], float]


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Returns the tuner, whose `search` runs the trials.

    Args:
        fn_args: TFX's arguments. `custom_config["config"]` is JSON with the sections `image`, `vocabulary`, `model`,
            `training` and `tuning`; `custom_config["checkpoints"]` is an optional folder for finished and unfinished
            trials, with which an interrupted search continues.

    Raises:
        UserError: no example is left, or a trial would end before the learning rate has reached its peak.
    """
    config = json.loads(fn_args.custom_config["config"])
    model, tuning = ModelConfig(**config["model"]), TuningConfig(**config["tuning"])
    training = dataclasses.replace(TrainingConfig(**config["training"]), epochs=tuning.epochs)
    transform = tft.TFTransformOutput(fn_args.transform_graph_path)
    working = Path(fn_args.working_dir)
    inputs = prepare(config["image"], training, fn_args.train_files, fn_args.eval_files, transform, working)
    if tuning.examples:
        chosen = np.arange(min(tuning.examples, len(inputs.training)))
        inputs = inputs._replace(training=inputs.training[chosen * len(inputs.training) // len(chosen)])
    steps = tuning.epochs * len(plan(inputs.training, training.batch_size, training.seed, 0))
    if steps <= training.warmup_steps:
        raise UserError(
            f"a trial of the tuning has {steps:,} steps, and the learning rate rises for training.warmup_steps = "
            f"{training.warmup_steps:,}: raise tuning.epochs or tuning.examples"
        )
    dtype = choose_precision(training, model, inputs.image, inputs.vocabulary, inputs.training)

    def train(values: Mapping[str, float], folder: Path) -> float:
        tried = applied(model, training, values)
        with ProcessPool(feeders(), with_main=False) as pool:
            return fit(inputs, *tried, dtype, pool=pool, checkpoints=folder, show=False)[1].best

    folder = working / "trials"
    if checkpoints := fn_args.custom_config.get("checkpoints"):
        config["tuning"].pop("trials")  # with more or fewer trials, the finished ones are the same
        folder = Path(checkpoints) / training_digest(config, inputs.vocabulary, inputs.training)
    oracle = RandomSearch(
        objective=keras_tuner.Objective(OBJECTIVE, "min"),
        max_trials=tuning.trials,
        seed=tuning.seed + 1,  # Keras Tuner takes 0 for none
        hyperparameters=search_space(tuning, model, training),
        max_consecutive_failed_trials=tuning.trials + 1,  # never: `on_search_end` judges
    )
    return TunerFnResult(FormulaTuner(oracle, train, folder, working), {"verbose": 0})


def search_space(tuning: TuningConfig, model: ModelConfig, training: TrainingConfig) -> keras_tuner.HyperParameters:
    """Returns the ranges of the hyperparameters; the default of each is the configuration's value, or the nearest."""
    space = keras_tuner.HyperParameters()
    if tuning.learning_rate:
        low, high = (factor * training.learning_rate for factor in tuning.learning_rate)
        default = float(np.clip(training.learning_rate, low, high))
        space.Float(LEARNING_RATE, low, high, sampling="log", default=default)
    if tuning.width:
        space.Choice(WIDTH, list(tuning.width), default=min(tuning.width, key=lambda width: abs(width - 1)))
    if tuning.dropout:
        low, high = tuning.dropout
        space.Float(DROPOUT, low, high, default=float(np.clip(model.dropout, low, high)))
    return space


class RandomSearch(keras_tuner.oracles.RandomSearchOracle):
    """Random search whose first trial has the values of the configuration."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the values of the next trial, as Keras Tuner describes."""
        if not self.trials:
            values = {parameter.name: parameter.default for parameter in self.hyperparameters.space}
            return {"status": TrialStatus.RUNNING, "values": values}
        return super().populate_space(trial_id)


@dataclasses.dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a trial."""

    perplexity: float | None  # None if the trial failed
    failure: str
    seconds: float


class FatalUserError(UserError, keras_tuner.errors.FatalError):
    """A user's error that Keras Tuner does not take for the failure of a trial."""


class FormulaTuner(base_tuner.BaseTuner):
    """Runs the trials, prints a line for each, and keeps the outcomes until the search has ended."""

    def __init__(self, oracle: keras_tuner.Oracle, train: Training, folder: Path, working: Path) -> None:
        """
        Args:
            oracle: chooses the hyperparameters.
            train: trains with them.
            folder: folder for the outcomes and the checkpoints of trials.
            working: temporary folder for Keras Tuner.
        """
        super().__init__(oracle, directory=str(working), project_name="search", overwrite=True)
        self._train, self._folder = train, folder

    def run_trial(self, trial: Trial, *_: Any, **__: Any) -> dict[str, float]:
        """Runs a trial, or takes its outcome from the search that was killed.

        Raises:
            FailedTrialError: the trial failed, and the search continues.
            FatalError: another error, which ends the search.
        """
        number, values = int(trial.trial_id), trial.hyperparameters.values
        folder = self._folder / str(number)
        record = folder / OUTCOME
        if record.exists():
            outcome = TrialOutcome(**json.loads(record.read_text("utf-8")))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            outcome = self._try(values, folder)
            write_atomically(record, json.dumps(dataclasses.asdict(outcome)))
            (folder / CHECKPOINT).unlink(missing_ok=True)
        result = f"perplexity {outcome.perplexity:.4f}" if outcome.perplexity is not None else outcome.failure
        trials, taken = self.oracle.max_trials, duration(outcome.seconds)
        print(f"Trial {number + 1} of {trials}: {in_words(values)}: {result}, {taken}", flush=True)
        if outcome.perplexity is None:
            raise keras_tuner.errors.FailedTrialError(outcome.failure)
        return {OBJECTIVE: outcome.perplexity}

    def _try(self, values: Mapping[str, float], folder: Path) -> TrialOutcome:
        started = time.monotonic()
        perplexity, failure = None, ""
        try:
            perplexity = self._train(values, folder)
        except Diverged:
            failure = "the training diverged"
        except tf.errors.ResourceExhaustedError:
            failure = "not enough memory"
        except UserError as error:
            raise FatalUserError(str(error)) from error
        except Exception as error:
            raise keras_tuner.errors.FatalError(f"{type(error).__name__}: {error}") from error
        finally:
            keras.utils.clear_session()
        return TrialOutcome(perplexity, failure, time.monotonic() - started)

    def on_search_end(self) -> None:
        """Removes the outcomes.

        Raises:
            UserError: every trial failed.
        """
        trials = self.oracle.trials.values()
        if all(trial.status == TrialStatus.FAILED for trial in trials):
            raise UserError(
                f"all {len(trials)} trials of the tuning failed, and Trainer would too: lower training.learning_rate "
                "or the ranges in the section tuning"
            )
        shutil.rmtree(self._folder)

    def search_space_summary(self, extended: bool = False) -> None:
        """Logs the ranges, where Keras Tuner prints them."""
        log.info("search space: %s", [parameter.get_config() for parameter in self.oracle.get_space().space])

    def results_summary(self, num_trials: int = 10) -> None:
        """Logs the best trial, where Keras Tuner prints several."""
        (best,) = self.oracle.get_best_trials()
        log.info("best: %s: perplexity %.4f", in_words(best.hyperparameters.values), best.score)
