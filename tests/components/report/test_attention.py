from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from components.report.attention import look
from im2latex.errors import UserError
from im2latex.images import normalise
from tests.components.report.conftest import Material
from trainer_module.weights import model_of


def on_paper(image: bytes) -> bytes:
    """Returns the image, four times as large, on a wide white page."""
    ink = Image.open(io.BytesIO(image)).convert("L")
    sheet = Image.new("L", (4 * ink.width + 300, 4 * ink.height + 90), "white")
    sheet.paste(ink.resize((4 * ink.width, 4 * ink.height)), (170, 40))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def test_attention_maps_do_not_depend_on_the_rest_of_the_batch(material: Material) -> None:
    records, reads = material.examples[:3], material.reads[:3]
    images = [record.image for record in records[:2]] + [on_paper(records[2].image)]
    looked = look(str(material.run.artifacts["model"].uri) + "/Format-Serving", images, reads)
    model = model_of(material.trained)
    texts = material.trained.vocabulary
    for image, read, attention in zip(images, reads, looked, strict=True):
        pixels = normalise(image, material.trained.image)
        height, width = pixels.shape
        rows, columns = -(-height // 8), -(-width // 8)
        filled = np.full((1, rows * 8, columns * 8, 1), 255, np.uint8)
        filled[0, :height, :width, 0] = pixels
        before = np.array([[1, *(texts.index(token) for token in read.split())]])  # 1 is the start token
        alone = model.attention_maps(filled, np.array([[height, width]]), before)
        assert np.array_equal(attention.image, filled[0, :, :, 0])
        assert attention.maps["fine"].shape == (len(read.split()) + 1, rows, columns)
        assert attention.maps["coarse"].shape == (len(read.split()) + 1, -(-rows // 4), -(-columns // 4))
        for name, values in attention.maps.items():
            np.testing.assert_allclose(values, np.asarray(alone[name])[0], atol=1e-5)
            np.testing.assert_allclose(values.sum(axis=(1, 2)), 1, atol=1e-5)
            assert values.max() > 1.5 * values.mean()  # the attention is not uniform


def test_another_model_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="not a model that this pipeline exported"):
        look(str(tmp_path), [], [])
