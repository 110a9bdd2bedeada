"""Evaluates models on examples: each model reads every image once, each prediction is scored once, TFMA sums by slice.

An evaluation writes these files to its folder:

    predictions.parquet   one row per example: name, target, each model's prediction and statistics, slices
    pictures.parquet      one row per changed picture, if the evaluation tested robustness: kind, name, target, each
                          model's prediction
    summary.json          every score of every slice and model, and the gate's verdict
    metrics, plots, ...   TFMA's own files, for `tfma.load_eval_result`
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import tensorflow_model_analysis as tfma
from PIL import Image
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.gate import GateRule, Verdict, judge
from components.evaluator.pictures import PICTURE, PICTURES, RobustnessTest, Trial, trials
from components.evaluator.reading import ImageReader, Predictions, read_images
from components.evaluator.slices import CORRECTIONS, KEYS, SLICES, slices_of, source_of
from components.evaluator.summary import BASELINE, CANDIDATE, PICTURE_PREDICTIONS, PREDICTIONS, Evaluation
from components.formula_metrics.metrics import metric_configs
from components.formula_metrics.scores import statistics, values
from data.dataset.record import Record
from data.latex.rendering import default_renderer
from data.spelling import NORMAL, known_spelling
from im2latex.errors import UserError

# Enough for batches of similar size; their images, predictions and statistics take some tens of MB.
EXAMPLES_AT_ONCE = 2048


def evaluate(
    records: Iterable[Record],
    models: Mapping[str, str | Path],
    rules: Sequence[GateRule],
    out: Path,
    *,
    robustness: RobustnessTest | None = None,
    spelling: str = NORMAL,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    renderer: str | None = None,
    pipeline: Callable[[], beam.Pipeline] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Evaluates a model, and the baseline if there is one, on the same examples.

    At most `EXAMPLES_AT_ONCE` examples are in memory at once, and those of the robustness test.

    Args:
        records: the examples, which are iterated several times.
        models: folders of SavedModels by name: `CANDIDATE` and, optionally, `BASELINE`.
        rules: rules of the gate; empty for no gate.
        out: output folder.
        robustness: how to test the models on other kinds of pictures; None skips that.
        spelling: spelling in which formulas are compared token by token, as in `data.spelling.respell`.
        about: more facts to store about each model, by its name.
        renderer: as in `data.latex.rendering`.
        pipeline: creates the Beam pipeline; the default runs in this process. Its workers read the folder `out`.
        progress: called with the name of the stage, the number of items done since the last call, and the total.

    Raises:
        UserError: there are no examples, the spelling is unknown, or a model cannot be used.
    """
    known_spelling(spelling)
    sources = Counter(source_of(record.name) for record in records)
    total = sources.total()
    if not total:
        raise UserError("there are no examples to evaluate on; choose another split")
    renderer = renderer or default_renderer()

    def telling(what: str, total: int) -> Callable[[int], None]:
        return lambda done: progress(what, done, total) if progress is not None else None

    readers = {name: ImageReader(folder) for name, folder in models.items()}
    out.mkdir(parents=True, exist_ok=True)
    comparing = telling("drawing and comparing", len(models) * total)
    tellings = {name: telling(f"reading, {name}", total) for name in models}
    seconds = dict.fromkeys(models, 0.0)
    with contextlib.ExitStack() as stack:
        writer: pyarrow.parquet.ParquetWriter | None = None
        for chunk in _chunks(records):
            columns = _columns_of(chunk, by_source=CORRECTIONS in sources)
            images = [record.image for record in chunk]
            readings = {name: read_images(reader, images, tellings[name]) for name, reader in readers.items()}
            counted = _statistics(columns["target"], readings, renderer, spelling, comparing)
            for name, reading in readings.items():
                seconds[name] += reading.seconds
                columns |= {
                    name: reading.latex,
                    f"{name}_log_probability": pa.array(reading.log_probability),
                    f"{name}_probability": pa.array(reading.probability),
                    f"{name}_statistics": pa.array(list(counted[name]), pa.list_(pa.int64())),
                }
            table = pa.table(columns)
            if writer is None:
                file = str(out / PREDICTIONS)
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(file, table.schema, compression="zstd"))
            writer.write_table(table)
    slices = _sums(out / PREDICTIONS, list(models), out, pipeline)
    if robustness is not None:
        most = len(PICTURES) * min(robustness.examples, total)
        tried = trials(records, robustness, telling("changing pictures", most))
        of_tried = {
            name: read_images(
                reader, [trial.image for trial in tried], telling(f"reading changed pictures, {name}", len(tried))
            )
            for name, reader in readers.items()
        }
        of_pictures = _columns_of_tried(tried, of_tried)
        pyarrow.parquet.write_table(pa.table(of_pictures), str(out / PICTURE_PREDICTIONS), compression="zstd")
        comparing = telling("comparing changed pictures", len(models) * len(tried))
        counted = _statistics(of_pictures["target"], of_tried, renderer, spelling, comparing)
        slices |= _by_kind(of_pictures["picture"], counted)
    evaluation = Evaluation(
        examples=total,
        renderer=renderer,
        models={name: {"seconds": round(seconds[name], 3), **(about or {}).get(name, {})} for name in models},
        slices=slices,
        gate=[_judged(rule, slices) for rule in rules],
        robustness=robustness._asdict() if robustness is not None else {},
        spelling=spelling,
    )
    evaluation.write(out)
    return evaluation


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    left = iter(records)
    while chunk := list(itertools.islice(left, EXAMPLES_AT_ONCE)):
        yield chunk


def _columns_of(records: Sequence[Record], by_source: bool) -> dict[str, Any]:
    """Returns the columns for names, targets, sizes and slices; of the key `source` only if asked."""
    sizes = [_size(record) for record in records]
    width, height = (pa.array(side, pa.int32()) for side in zip(*sizes, strict=True))
    return {
        "name": [record.name for record in records],
        "target": [record.latex for record in records],
        "width": width,
        "height": height,
        **_slices(records, sizes, by_source),
    }


def _columns_of_tried(tried: Sequence[Trial], readings: Mapping[str, Predictions]) -> dict[str, list[str]]:
    """Returns the columns of `pictures.parquet`: kinds, names, targets and each model's predictions."""
    return {
        "picture": [trial.kind for trial in tried],
        "name": [trial.name for trial in tried],
        "target": [trial.target for trial in tried],
        **{name: reading.latex for name, reading in readings.items()},
    }


def _judged(rule: GateRule, slices: Mapping[str, Mapping[str, Any]]) -> Verdict:
    scores = slices.get(rule.slice, {})
    return judge(rule, *(scores.get(name, {}).get(rule.score) for name in (CANDIDATE, BASELINE)))


def _statistics(
    targets: Sequence[str],
    readings: Mapping[str, Predictions],
    renderer: str,
    spelling: str,
    progress: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Computes the statistics of every model's predictions, int64 (examples, WIDTH), by model."""
    # The models' predictions for one example follow each other, so that equal formulas are drawn once.
    repeated = [target for target in targets for _ in readings]
    read = list(itertools.chain(*zip(*(reading.latex for reading in readings.values()), strict=True)))
    probabilities = np.stack([reading.probability for reading in readings.values()], axis=1).reshape(-1)
    counted = statistics(repeated, read, renderer, progress, spelling, probabilities.tolist())
    return {name: counted[index :: len(readings)] for index, name in enumerate(readings)}


def _by_kind(kinds: Sequence[str], counted: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Computes every score for each kind of picture."""
    of, slices = np.array(kinds), {}
    for kind in dict.fromkeys(kinds):
        scores = {name: values(rows[of == kind]) for name, rows in counted.items()}
        slices[f"{PICTURE}={kind}"] = {"examples": int((of == kind).sum()), **scores}
    return slices


def _size(record: Record) -> tuple[int, int]:
    """Returns the width and height of an example's image, pixels."""
    try:
        return Image.open(io.BytesIO(record.image)).size
    except OSError:
        raise UserError(
            f"the image of {record.name} cannot be decoded; `im2latex data check` finds all such records"
        ) from None


def _slices(records: Sequence[Record], sizes: Sequence[tuple[int, int]], by_source: bool) -> dict[str, pa.Array]:
    of = [slices_of(record.latex, height, width) for record, (width, height) in zip(records, sizes, strict=True)]
    columns = {key: [slices[key] for slices in of] for key in KEYS if key != "source"}
    columns["source"] = [[source_of(record.name)] if by_source else [] for record in records]
    return {key: pa.array(column, pa.list_(pa.string())) for key, column in columns.items()}


def eval_config(models: Sequence[str]) -> config_pb2.EvalConfig:
    """Returns TFMA's configuration: every score and the number of examples, over all examples and for every slice."""
    metrics = [config_pb2.MetricConfig(class_name="ExampleCount"), *metric_configs()]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=name, label_key="target", prediction_key=f"{name}_statistics", is_baseline=name == BASELINE
            )
            for name in models
        ],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[key]) for key in KEYS)],
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics, model_names=list(models))],
    )


def _rows(group: int, file: str, columns: list[str]) -> pa.RecordBatch:
    """Reads a group of predictions as TFMA takes them, every column with lists."""
    (batch,) = pyarrow.parquet.ParquetFile(file).read_row_group(group, columns).combine_chunks().to_batches()
    lists = [
        column if pa.types.is_list(column.type) else pa.array([[value] for value in column.to_pylist()])
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(lists, batch.schema.names)


def _sums(
    predictions: Path, models: Sequence[str], out: Path, pipeline: Callable[[], beam.Pipeline] | None
) -> dict[str, dict[str, Any]]:
    """Runs TFMA, which leaves its files in `out`. Returns every score by slice and model."""
    config = eval_config(models)
    columns = ["target", *KEYS, *(f"{name}_statistics" for name in models)]
    groups = range(pyarrow.parquet.read_metadata(str(predictions)).num_row_groups)
    make = pipeline or (lambda: beam.Pipeline("FnApiRunner"))
    with make() as run:
        _ = (
            run
            | beam.Create(groups)
            | beam.Map(_rows, str(predictions), columns)
            | tfma.ExtractEvaluateAndWriteResults(eval_config=config, output_path=str(out))
        )
    slices: dict[str, dict[str, Any]] = {}
    for row in tfma.load_metrics(str(out)):
        name = "&".join(f"{key.column}={key.bytes_value.decode()}" for key in row.slice_key.single_slice_keys)
        scores = slices.setdefault(name, {})
        for metric in row.metric_keys_and_values:
            if metric.key.is_diff:
                continue
            if metric.key.name == "example_count":
                scores["examples"] = int(metric.value.double_value.value)
            else:
                model = metric.key.model_name or CANDIDATE
                scores.setdefault(model, {})[metric.key.name] = metric.value.double_value.value
    order = ["", *(f"{key}={value}" for key in KEYS for value in SLICES[key])]
    return {name: slices[name] for name in order if name in slices}
