from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.formula_metrics import scores as reference
from data.importers.importing import import_dataset
from data.pictures.synthetic import draw_png, formulas
from pipeline.standalone.command import main
from pipeline.standalone.evaluation import scores
from pipeline.standalone.examples import make_vocabulary, read_splits
from trainer_module import features
from trainer_module.config.image import ImageConfig
from trainer_module.image_graph import normalise_image


def processed(folder: Path, count: int) -> Path:
    """Drawn formulas in the layout `processed`, a quarter of them for validation and a quarter for test."""
    images = folder / "formula_images_processed"
    images.mkdir(parents=True)
    drawn = list(formulas(count, seed=3, level="simple", max_tokens=8))
    (folder / "im2latex_formulas.norm.lst").write_text("".join(f"{formula}\n" for formula in drawn))
    for i, formula in enumerate(drawn):
        (images / f"{i}.png").write_bytes(draw_png(formula, 11))
    places = {"train": (0, count // 2), "validate": (count // 2, 3 * count // 4), "test": (3 * count // 4, count)}
    for name, (start, end) in places.items():
        (folder / f"im2latex_{name}_filter.lst").write_text("".join(f"{i}.png {i}\n" for i in range(start, end)))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return processed(tmp_path_factory.mktemp("source"), 48)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["/nowhere"], "/nowhere does not exist"),
        (["/nowhere", "--set", "training.epoch=3"], "did you mean training.epochs"),
        (["/nowhere", "--preset", "huge"], "there is no preset 'huge'"),
        ([Path(__file__).parent], "none of the known layouts"),
    ],
)
def test_an_error_is_one_sentence_and_status_1(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert main([*map(str, arguments), "--out", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("im2latex: ") and errors.count("\n") == 1 and sentence in errors


def test_another_backend_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert main(["/nowhere", "--out", str(tmp_path)]) == 1
    assert "KERAS_BACKEND is tensorflow" in capsys.readouterr().err


# --- data -------------------------------------------------------------------------------------


def test_rare_tokens_are_left_out_of_the_vocabulary():
    # b and c occur twice each; ties are in descending byte order.
    assert make_vocabulary(["b c a", "a c b a", "ä"], 2)[features.SPECIALS :] == ["a", "c", "b"]


def test_examples_equal_those_of_an_import_and_of_transform(source, tmp_path):
    config = ImageConfig(max_height=32, max_width=40, border=2)
    direct = read_splits(source, config, tmp_path, spelling="normal")
    import_dataset(source, tmp_path / "records", workers=1)
    for one, other in zip(read_splits(tmp_path / "records", config, tmp_path), direct, strict=True):
        assert [example[:3] for example in one.examples] == [example[:3] for example in other.examples]
        assert list(one.latex()) == list(other.latex())
        assert one.names == other.names
    training, validation = direct
    assert (len(training.examples), len(validation.examples)) == (24, 12)
    formulas = (source / "im2latex_formulas.norm.lst").read_text().splitlines()
    assert [*training.latex(), *validation.latex()] == formulas[:36]
    assert validation.names == [f"{i}.png" for i in range(24, 36)]
    for name, example in zip(validation.names, validation.examples, strict=True):
        encoded = (source / "formula_images_processed" / name).read_bytes()
        expected = normalise_image(encoded, config).numpy()[:, :, 0].astype(int)
        got = tf.io.decode_png(example.image).numpy()[:, :, 0]
        assert got.shape == expected.shape == (example.height, example.width)
        assert np.abs(got - expected).max() <= 1


def test_the_spelling_of_formulas_is_configurable(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    lines = (folder / "im2latex_formulas.norm.lst").read_text().splitlines()
    (folder / "im2latex_formulas.norm.lst").write_text("".join(f"{{ {line} }}\n" for line in lines))
    for spelling, expected in (("normal", lines), ("im2markup", [f"{{ {line} }}" for line in lines])):
        training, validation = read_splits(folder, ImageConfig(), tmp_path, spelling=spelling)
        assert [*training.latex(), *validation.latex()] == expected[:36]


def test_the_limit_applies_to_each_split(source, tmp_path):
    training, validation = read_splits(source, ImageConfig(), tmp_path, limit=3)
    assert (len(training.examples), len(validation.examples)) == (3, 3)


def test_tokens_get_the_ids_of_the_vocabulary(source, tmp_path):
    training, validation = read_splits(source, ImageConfig(), tmp_path)
    vocabulary = make_vocabulary(training.latex(), 2)
    assert len(vocabulary) < features.SPECIALS + len(training.tokens)  # some are rare
    for latex, example in zip(validation.latex(), validation.numbered(vocabulary), strict=True):
        known = [token if token in vocabulary else "<unknown>" for token in latex.split()]
        assert [vocabulary[token] for token in example.tokens] == known


def test_scores_equal_those_of_the_gate():
    targets = ["x ^ { 2 } + 1", "a b c d e", "y"]
    read = ["x ^ { 2 } - 1", "a b c d e", ""]
    statistics = sum(reference.bleu_statistics(*pair) for pair in zip(targets, read, strict=True))
    text_scores = scores(targets, read)
    assert text_scores["bleu"] == pytest.approx(reference.bleu(statistics)) and text_scores["exact_match"] == 1 / 3
    # Of 7, 5 and 1 tokens, one is wrong and one is missing; the others are correct.
    assert text_scores["edit_similarity"] == text_scores["token_accuracy"] == pytest.approx(11 / 13)
    assert list(text_scores) == ["bleu", "exact_match", "edit_similarity", "token_accuracy"]
