"""Statistics of examples; test_trainer.py tests those of a training."""

from __future__ import annotations

import numpy as np
import pytest

from data.dataset.record import Record
from data.pictures.synthetic import draw_png, formulas
from im2latex.images import normalise
from im2latex.statistics import of_values
from trainer_module import statistics
from trainer_module.config.image import ImageConfig
from trainer_module.statistics import of_records

IMAGE = ImageConfig(max_height=64, max_width=320, border=2)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    drawn = formulas(120, seed=3, level="simple", max_tokens=9)
    return [Record(draw_png(formula, em=11), formula, str(number)) for number, formula in enumerate(drawn)]


def test_records_are_measured_as_the_model_sees_them(records: list[Record]) -> None:
    histograms = of_records(records, len(records), IMAGE, ["x", "y", "+"], max_tokens=7)
    kept = [record for record in records if len(record.latex.split()) <= 7]
    pictures = [normalise(record.image, IMAGE) for record in kept]
    tokens = [token for record in kept for token in record.latex.split()]
    assert 0 < len(kept) < len(records)
    assert histograms["width"] == of_values("width", [picture.shape[1] for picture in pictures])
    assert histograms["height"] == of_values("height", [picture.shape[0] for picture in pictures])
    assert histograms["length"] == of_values("length", [len(record.latex.split()) for record in kept])
    assert histograms["ink"].mean == pytest.approx(np.mean([(picture < 128).mean() for picture in pictures]))
    assert histograms["unknown"].mean == pytest.approx(np.mean([token not in ("x", "y", "+") for token in tokens]))


def test_the_measured_sample_does_not_depend_on_the_order(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RECORDS", 40)
    samples = [of_records(some, len(records), IMAGE, [], 60) for some in (records, records[::-1])]
    assert samples[0]["length"] == samples[1]["length"] and 20 <= samples[0]["length"].count <= 60
    assert samples[0]["unknown"].mean == 1
