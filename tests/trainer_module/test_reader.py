"""The model that comes with im2latex: its file exists, loads, and matches its preset."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from im2latex import weights
from im2latex.errors import UserError
from im2latex.weights import WEIGHTS
from pipeline.config import load_config
from trainer_module import reader
from trainer_module.config.image import ImageConfig
from trainer_module.trained import load_description, save_weights
from trainer_module.weights import model_of, named_weights

MOST_BYTES = 12_000_000


def test_the_file_is_small_and_loads():
    assert len(reader.weights_file().read_bytes()) <= MOST_BYTES
    trained = reader.load()
    for name, variable in named_weights(model_of(trained)).items():
        np.testing.assert_array_equal(np.array(variable), trained.weights[name])
    assert {"date", "im2latex", "data"} <= trained.provenance.keys()


def test_the_preset_has_the_dimensions_of_the_model():
    own = load_description(reader.weights_file())
    config = load_config("reader", settings=["training.start_from=reader", "model.dropout=0.3"])
    assert config.model.filters == own.model.filters and config.image == own.image


@pytest.mark.parametrize("setting", ["model.decoder_units=1024", "model.filters=[32, 64, 128, 128, 256, 512]"])
def test_a_wider_model_may_start_from_it(setting):
    load_config("reader", settings=[setting, "training.start_from=reader"])


@pytest.mark.parametrize(
    ("preset", "setting", "sentence"),
    [
        ("quickstart", "training.epochs=1", r"model.filters is \(16, 32, 64, 64, 128, 128\) and not .*use preset"),
        ("reader", "model.decoder_units=8", r"model.decoder_units is 8 and not \d+; use preset = \"reader\""),
        ("reader", "model.filters=[32, 64, 128, 128, 256, 128]", r"model.filters is \(32, 64, 128, 128, 256, 128\)"),
        ("reader", "image.border=1", r"image.border is 1 and not \d+"),
    ],
)
def test_a_configuration_of_other_dimensions_is_refused_when_it_is_read(preset, setting, sentence):
    load_config(preset, settings=[setting])
    with pytest.raises(UserError, match=sentence):
        load_config(preset, settings=[setting, "training.start_from=reader"])


def test_checking_the_dimensions_does_not_import_keras():
    code = (
        "import sys; from pipeline.config import load_config;"
        "load_config('reader', settings=['training.start_from=reader']);"
        "print(*{'keras', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


def test_a_missing_file_is_a_user_error(monkeypatch):
    monkeypatch.setattr(weights, "NAME", "absent")
    for call in (reader.load, reader.fingerprint, lambda: reader.check_fits(load_config().model, ImageConfig())):
        with pytest.raises(UserError, match="absent.npz, the model that comes with im2latex, is missing; install"):
            call()


def test_the_fingerprint_depends_on_the_bytes_of_the_file(tmp_path, monkeypatch):
    trained, before = reader.load(), reader.fingerprint()
    assert before == reader.fingerprint() and len(before) == 64
    monkeypatch.setattr(reader, "weights_file", lambda: tmp_path / WEIGHTS)
    save_weights(tmp_path / WEIGHTS, trained._replace(max_tokens=7))
    assert reader.fingerprint() != before
