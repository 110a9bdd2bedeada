from __future__ import annotations

from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.hyperparameters import in_words
from trainer_module.trainer import applied

MODEL = ModelConfig(filters=(4, 8, 8, 16, 16, 32), decoder_units=20, dropout=0.1)
TRAINING = TrainingConfig(learning_rate=0.1)


def test_hyperparameters_change_the_configuration() -> None:
    model, training = applied(MODEL, TRAINING, {"learning_rate": 0.025, "width": 0.75, "dropout": 0.3})
    assert model == ModelConfig(filters=(3, 6, 6, 12, 12, 24), decoder_units=16, dropout=0.3)  # 15 units are 16
    assert training == TrainingConfig(learning_rate=0.025)


def test_values_that_were_not_searched_stay() -> None:
    assert applied(MODEL, TRAINING, {}) == (MODEL, TRAINING)
    model, training = applied(MODEL, TRAINING, {"dropout": 0.0})
    assert (model.filters, model.decoder_units, model.dropout) == (MODEL.filters, 20, 0.0)
    assert training == TRAINING


def test_the_narrowest_model_still_has_filters_and_units() -> None:
    model, _ = applied(MODEL, TRAINING, {"width": 0.01})
    assert (model.filters, model.decoder_units) == ((1,) * 6, 2)


def test_hyperparameters_are_written_in_words() -> None:
    values = {"dropout": 0.0, "learning_rate": 0.00251234, "width": 1.25, "perplexity": 2.0}
    assert in_words(values) == "learning rate 0.00251, width 1.25, dropout 0"
