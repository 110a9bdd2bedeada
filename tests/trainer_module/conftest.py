from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from data.pictures.synthetic import draw_png, formulas
from trainer_module import features
from trainer_module.preprocessing import preprocessing_fn


class Transformed(NamedTuple):
    """The output of TFX's Transform for twelve small formulas."""

    config: dict  # sections image and vocabulary
    output: str  # the folder that tft.TFTransformOutput takes
    examples: str  # pattern of the transformed examples, gzipped TFRecords
    images: list[bytes]  # before Transform
    latex: list[str]


def encoded(row: dict) -> bytes:
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.extend(np.atleast_1d(value).tolist())
    return example.SerializeToString()


@pytest.fixture(scope="session")
def transformed(tmp_path_factory) -> Transformed:
    folder = Path(tmp_path_factory.mktemp("transformed"))
    config = {"image": {"max_height": 32, "max_width": 96, "border": 2}, "vocabulary": {"min_count": 1}}
    latex = list(formulas(12, seed=3, level="simple", max_tokens=8))
    images = [draw_png(formula, em=11) for formula in latex]
    records = [
        {"image": image, "latex": formula.encode(), "name": b""} for image, formula in zip(images, latex, strict=True)
    ]
    raw = dataset_metadata.DatasetMetadata(
        schema_utils.schema_from_feature_spec(
            {name: tf.io.FixedLenFeature([], tf.string) for name in (features.IMAGE, features.LATEX, features.NAME)}
        )
    )
    # The in-memory runner by name: newer versions of Beam's default download another one.
    with beam.Pipeline(runner="FnApiRunner") as pipeline, tft_beam.Context(temp_dir=str(folder / "tmp")):
        (data, _), transform_fn = (pipeline | beam.Create(records), raw) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: preprocessing_fn(inputs, {"config": json.dumps(config)})
        )
        data | beam.Map(encoded) | beam.io.WriteToTFRecord(str(folder / "data"), file_name_suffix=".gz")
        transform_fn | tft_beam.WriteTransformFn(str(folder / "output"))
    return Transformed(config, str(folder / "output"), str(folder / "data*.gz"), images, latex)


@pytest.fixture(scope="session")
def transform(transformed) -> tft.TFTransformOutput:
    return tft.TFTransformOutput(transformed.output)
