from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import keras_tuner
import pytest
import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from im2latex.errors import UserError
from tests.trainer_module.test_trainer import MODEL, TRAINING
from tests.trainer_module.test_training import without_graphs
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.config.tuning import TuningConfig
from trainer_module.training import CHECKPOINT, Diverged
from trainer_module.tuner import OBJECTIVE, FormulaTuner, RandomSearch, search_space, tuner_fn

TUNING = TuningConfig(trials=6, learning_rate=(0.1, 10.0), width=(0.5, 1.0, 2.0), dropout=(0.1, 0.5))
Values = Mapping[str, float]


class Trainings:
    """Replaces trainings: the perplexity of a learning rate is its distance from 0.3, in decades."""

    def __init__(self) -> None:
        self.tried: list[dict[str, float]] = []
        self.folders: list[Path] = []

    def __call__(self, values: Values, folder: Path) -> float:
        self.tried.append(dict(values))
        self.folders.append(folder)
        (folder / CHECKPOINT).write_bytes(b"state")
        return 1 + abs(math.log10(values["learning_rate"] / 0.3))


def tuner(train, folder: Path, tuning: TuningConfig = TUNING, dropout: float = 0.2) -> FormulaTuner:
    space = search_space(tuning, ModelConfig(dropout=dropout), TrainingConfig(learning_rate=0.1))
    oracle = RandomSearch(
        objective=keras_tuner.Objective(OBJECTIVE, "min"), max_trials=tuning.trials, seed=tuning.seed + 1,
        hyperparameters=space, max_consecutive_failed_trials=tuning.trials + 1,
    )  # fmt: skip
    return FormulaTuner(oracle, train, folder / "trials", folder / "working")


def search(train, folder: Path, **settings) -> FormulaTuner:
    formula_tuner = tuner(train, folder, dataclasses.replace(TUNING, **settings))
    formula_tuner.search(verbose=0)
    return formula_tuner


def test_trials_are_within_the_ranges_and_the_first_has_the_values_of_the_configuration(tmp_path: Path) -> None:
    trainings = Trainings()
    search(trainings, tmp_path, trials=40)
    assert trainings.tried[0] == {"learning_rate": 0.1, "width": 1.0, "dropout": 0.2}
    rates = [values["learning_rate"] for values in trainings.tried[1:]]
    assert 0.01 <= min(rates) < 0.02 and 0.5 < max(rates) <= 1.0  # factors of 0.1
    assert 10 < sum(rate < 0.1 for rate in rates) < 30  # on a logarithmic scale, half of the range
    assert {values["width"] for values in trainings.tried} == {0.5, 1.0, 2.0}
    assert all(0.1 <= values["dropout"] <= 0.5 for values in trainings.tried)


def test_a_value_outside_its_range_is_replaced_by_the_nearest() -> None:
    tuning = TuningConfig(trials=2, learning_rate=(0.1, 0.5), width=(0.25, 0.5), dropout=(0.2, 0.4))
    space = search_space(tuning, ModelConfig(dropout=0.0), TrainingConfig(learning_rate=0.1))
    assert space.values == pytest.approx({"learning_rate": 0.05, "width": 0.5, "dropout": 0.2})


def test_what_has_no_range_is_not_searched(tmp_path: Path) -> None:
    trainings = Trainings()
    search(trainings, tmp_path, width=(), dropout=())
    assert {name for values in trainings.tried for name in values} == {"learning_rate"}


def test_the_same_seed_tries_the_same_values(tmp_path: Path) -> None:
    runs = [Trainings(), Trainings(), Trainings()]
    for seed, (index, trainings) in zip((0, 0, 1), enumerate(runs), strict=True):
        search(trainings, tmp_path / str(index), seed=seed)
    assert runs[0].tried == runs[1].tried
    assert runs[0].tried[0] == runs[2].tried[0] and runs[0].tried[1:] != runs[2].tried[1:]


def test_the_best_trial_has_the_lowest_perplexity_and_each_has_a_line(tmp_path: Path, capsys) -> None:
    trainings = Trainings()
    formula_tuner = search(trainings, tmp_path)
    best = min(trainings.tried, key=lambda values: abs(math.log10(values["learning_rate"] / 0.3)))
    assert formula_tuner.get_best_hyperparameters()[0].values == best
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("Trial 1 of 6: learning rate 0.1, width 1, dropout 0.2: perplexity 1.4771, ")
    formula_tuner.search_space_summary()  # TFX prints both
    formula_tuner.results_summary()
    assert capsys.readouterr().out == ""


def test_a_killed_search_continues_and_comes_to_the_same_result(tmp_path: Path, capsys) -> None:
    whole, killed, resumed = Trainings(), Trainings(), Trainings()
    expected = search(whole, tmp_path / "whole").get_best_hyperparameters()[0].values

    def until_killed(values: Values, folder: Path) -> float:
        if len(killed.tried) == 3:
            (folder / CHECKPOINT).write_bytes(b"half")
            raise KeyboardInterrupt
        return killed(values, folder)

    with pytest.raises(KeyboardInterrupt):
        search(until_killed, tmp_path)
    # The outcomes of finished trials are kept without their checkpoints, and the checkpoint of the unfinished one.
    kept = {str(path.relative_to(tmp_path / "trials")) for path in (tmp_path / "trials").rglob("*") if path.is_file()}
    assert kept == {"0/outcome.json", "1/outcome.json", "2/outcome.json", f"3/{CHECKPOINT}"}
    capsys.readouterr()
    # With another number of trials, too.
    got = search(resumed, tmp_path).get_best_hyperparameters()[0].values
    assert got == expected
    assert killed.tried + resumed.tried == whole.tried
    assert [folder.name for folder in resumed.folders] == ["3", "4", "5"]
    assert len(capsys.readouterr().out.splitlines()) == 6  # also those that had finished
    assert not (tmp_path / "trials").exists()


def test_a_failed_trial_is_reported_and_the_search_continues(tmp_path: Path, capsys) -> None:
    def train(values: Values, folder: Path) -> float:
        if values["learning_rate"] > 0.15:
            raise Diverged("the perplexity is nan")
        if values["width"] > 1:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        return 2.0

    formula_tuner = search(train, tmp_path, trials=20)
    best = formula_tuner.get_best_hyperparameters()[0].values
    assert best["learning_rate"] <= 0.15 and best["width"] <= 1
    lines = capsys.readouterr().out.splitlines()
    ends = {line.rpartition(": ")[2].rpartition(",")[0] for line in lines}
    assert len(lines) == 20 and ends == {"perplexity 2.0000", "the training diverged", "not enough memory"}


def test_a_search_in_which_every_trial_fails_is_a_user_error(tmp_path: Path) -> None:
    def train(values: Values, folder: Path) -> float:
        raise Diverged("the perplexity is nan")

    with pytest.raises(UserError, match=r"^all 6 trials of the tuning failed.* lower training\.learning_rate or "):
        search(train, tmp_path)


def test_other_errors_end_the_search(tmp_path: Path) -> None:
    def user(values: Values, folder: Path) -> float:
        raise UserError("the checkpoint is damaged")

    def program(values: Values, folder: Path) -> float:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(UserError, match="^the checkpoint is damaged$"):
        search(user, tmp_path)
    with pytest.raises(keras_tuner.errors.FatalError, match="^ZeroDivisionError: division by zero$"):
        search(program, tmp_path)
    assert not list(tmp_path.rglob("outcome.json"))


def arguments(transformed, folder: Path, **tuning) -> FnArgs:
    sections = {"model": MODEL, "training": TRAINING, "tuning": {"trials": 2, "epochs": 1} | tuning}
    return FnArgs(
        train_files=[transformed.examples],
        eval_files=[transformed.examples],
        transform_graph_path=transformed.output,
        working_dir=str(folder / "working"),
        custom_config={"config": json.dumps(transformed.config | sections), "checkpoints": str(folder / "checkpoints")},
    )


def test_trials_train_models(transformed, tmp_path: Path, capsys) -> None:
    with without_graphs():
        formula_tuner, options = tuner_fn(arguments(transformed, tmp_path, examples=7, learning_rate=[0.1, 10]))
        formula_tuner.search(**options)
    scores = [trial.score for trial in formula_tuner.oracle.get_best_trials(2)]
    assert 1 < scores[0] < scores[1]
    assert len(capsys.readouterr().out.splitlines()) == 2  # and no epochs
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_trial_that_would_end_in_the_warm_up_is_a_user_error(transformed, tmp_path: Path) -> None:
    fn_args = arguments(transformed, tmp_path, examples=7)
    config = json.loads(fn_args.custom_config["config"])
    fn_args.custom_config["config"] = json.dumps(config | {"training": TRAINING | {"warmup_steps": 2}})
    with pytest.raises(
        UserError, match=r"a trial of the tuning has 2 steps, .*\.warmup_steps = 2: raise tuning.epochs"
    ):
        tuner_fn(fn_args)
