from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.evaluator.reading import ImageReader
from im2latex.errors import ImageError, UserError
from im2latex.reading import Beam, of_like_size
from tests.components.serving_check.models import draw, save, save_reader, sure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_reader(folder)
    return folder


@pytest.fixture(scope="module")
def reader(folder: Path) -> ImageReader:
    return ImageReader(folder)


@pytest.fixture(scope="module")
def signatures(folder: Path) -> Any:
    return tf.saved_model.load(str(folder)).signatures


IMAGES = draw(5)


def test_hypotheses_equal_the_outputs_of_the_signatures(reader: ImageReader, signatures: Any) -> None:
    own = signatures["predict_images"](images=tf.constant(IMAGES))
    greedy = reader.read(IMAGES)
    assert [of.latex for (of,) in greedy] == [text.decode() for text in own["latex"].numpy()]
    assert [of.log_probability for (of,) in greedy] == own["log_probability"].numpy().tolist()
    own = signatures["predict_alternatives"](
        images=tf.constant(IMAGES), width=tf.constant(3), length_penalty=tf.constant(1.0)
    )
    alternatives = reader.read(IMAGES, Beam(3, 1.0))
    assert [[of.latex.encode() for of in hypotheses] for hypotheses in alternatives] == own["latex"].numpy().tolist()
    assert [[of.score for of in hypotheses] for hypotheses in alternatives] == own["score"].numpy().tolist()
    assert [[of.log_probability for of in hypotheses] for hypotheses in alternatives] == own[
        "log_probability"
    ].numpy().tolist()


@pytest.mark.parametrize("beam", [None, Beam(2)])
def test_a_damaged_image_does_not_affect_the_rest_of_its_batch(reader: ImageReader, beam: Beam | None) -> None:
    torn = IMAGES[1][:-30]
    answers = reader.read_each([torn, *IMAGES, torn, IMAGES[0]], beam)
    assert [isinstance(answer, ImageError) for answer in answers] == [True, *[False] * 5, True, False]
    for answer, image in zip(answers[1:6], IMAGES, strict=True):
        assert not isinstance(answer, ImageError)
        assert [of.latex for of in answer] == [of.latex for of in reader.read([image], beam)[0]]
    with pytest.raises(ImageError, match="the image is damaged"):
        reader.read([IMAGES[0], torn], beam)
    assert reader.read_each([], beam) == []


def test_a_model_without_beam_search_is_recognised(reader: ImageReader, tmp_path: Path) -> None:
    assert reader.has_alternatives
    assert not ImageReader(save(tmp_path / "old", lambda images: sure(images))).has_alternatives
    with pytest.raises(UserError, match="other is not a model that reads images"):
        ImageReader(save(tmp_path / "other", lambda images: sure(images), signature="something"))


def test_batches_have_images_of_similar_size_each_once() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(8, 400, (500, 2))
    batches = list(of_like_size([tuple(size) for size in sizes], 32))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert max(map(len, batches)) == 32
    padded = sum(len(batch) * sizes[batch].max(axis=0).prod() for batch in batches)
    at_random = sum(len(part) * part.max(axis=0).prod() for part in np.array_split(sizes, len(batches)))
    assert padded < 0.6 * at_random
    assert list(of_like_size([])) == []
