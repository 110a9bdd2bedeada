"""Describes artifacts in words, from their files and properties."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from components.evaluator.summary import CANDIDATE, SUMMARY, Evaluation, read_evaluation
from components.example_gen import corrections
from components.formula_metrics.scores import SCORES
from components.serving_folder import SERVING_VERSION, WITHDRAWN, not_pushed, version_status
from components.tuner.results import best_in_words
from data.dataset.record import SPLITS
from pipeline.lineage.files import look
from pipeline.lineage.graph import DESTINATION, Artifact, Execution, LineageGraph
from trainer_module.features import SPECIALS, VOCABULARY, read_vocabulary

GONE = "its files are gone"
# The scores in a note; the report has all of them.
SHOWN = ("bleu", "exact_match", "image_match")
# Execution properties that name an external input.
SOURCES = ("input_base", "schema_file")


def notes(artifact: Artifact, about: LineageGraph) -> Iterator[str]:
    """Yields lines that describe an artifact.

    Args:
        artifact: the artifact.
        about: graph that contains related artifacts, such as the statistics of examples.
    """
    if artifact.uri and not is_there(artifact):
        yield GONE
        return
    match artifact.type:
        case "PushedModel":
            yield _pushed(artifact)
        case "ModelBlessing":
            yield "blessed" if artifact.blessed else "not blessed"
        case "InfraBlessing":
            yield _served(artifact)
        case "ModelEvaluation" if file := look(artifact.uri, SUMMARY):
            yield from _evaluated(read_evaluation(file.parent))
        case "TransformGraph":
            if (size := vocabulary_size(artifact.uri)) is not None:
                yield f"vocabulary of {size:,}"
        case "HyperParameters":
            yield best_in_words(artifact.properties)
        case "Model" if SERVING_VERSION in artifact.properties:
            yield _baseline(artifact)
        case "Examples":
            yield from _counts(artifact, about)
            if corrected := corrections.sentence(artifact.properties):
                yield corrected


def sources(execution: Execution) -> list[tuple[str, bool]]:
    """Returns the paths of an execution's external inputs, and whether each still exists."""
    paths = [str(execution.properties[name]) for name in SOURCES if execution.properties.get(name)]
    # Relative ones are in the image of a cluster.
    return [(path, "://" in path or not os.path.isabs(path) or os.path.exists(path)) for path in paths]


def is_there(artifact: Artifact) -> bool:
    """Returns whether an artifact's files exist; True for remote ones, which are not checked."""
    return "://" in artifact.uri or os.path.exists(artifact.uri)


def now(artifact: Artifact) -> str:
    """Describes the present state of a pushed version; "" for other artifacts, and if it is unknown."""
    destination = str(artifact.properties.get(DESTINATION, ""))
    return "" if not destination or "://" in destination else version_status(Path(destination))


def _pushed(artifact: Artifact) -> str:
    if not artifact.pushed:
        return not_pushed(artifact.properties.get(WITHDRAWN, ""))
    return "; ".join(filter(None, [f"pushed to {artifact.properties.get(DESTINATION)}", now(artifact)]))


def _served(artifact: Artifact) -> str:
    if not artifact.blessed:
        return f"not blessed: {artifact.properties.get('reason', 'no reason is known')}"
    seconds = artifact.properties.get("seconds_per_image")
    return "blessed" if seconds is None else f"blessed: {1000 * seconds:.0f} ms an image in a process of its own"


def _evaluated(evaluation: Evaluation) -> Iterator[str]:
    scores = evaluation.slices[""][CANDIDATE]
    shown = ", ".join(f"{SCORES[name].title} {SCORES[name].shown(scores[name])}" for name in SHOWN if name in scores)
    yield f"{shown} on {evaluation.examples:,} examples"
    if evaluation.hardest_pictures:
        yield f"kinds of pictures: {evaluation.hardest_pictures}"
    for verdict in evaluation.gate:
        yield f"{'passed' if verdict.passed else 'failed'}  {verdict.rule}  ({verdict.text})"


def vocabulary_size(graph: str) -> int | None:
    """Returns the size of Transform's vocabulary, without the four special tokens; None if the file is gone."""
    file = look(graph, f"transform_fn/assets/{VOCABULARY}")
    return len(read_vocabulary(file)) - SPECIALS if file else None


def _baseline(artifact: Artifact) -> str:
    version = artifact.properties[SERVING_VERSION]
    if not version:
        return "nothing was serving yet"
    origin = f", pushed as artifact {artifact.copy_of}" if artifact.copy_of else ""
    return f"the model that was serving, version {version}{origin}"


def count_examples(statistics: str | Path) -> dict[str, int]:
    """Returns the number of examples of every split, from StatisticsGen's output."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    counts = {}
    folder = look(str(statistics)) or Path(statistics)
    for split in SPLITS:
        for file in (folder / f"Split-{split}").glob("*"):
            (dataset,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read_bytes()).datasets
            counts[split] = int(dataset.num_examples)
    return counts


def _counts(artifact: Artifact, about: LineageGraph) -> Iterator[str]:
    """Yields a line with the number of examples by split, if there are statistics."""
    output_ids = [i for user in about.users.get(artifact.id, ()) for i in about.executions[user].output_ids()]
    for statistics in (about.artifacts[i] for i in output_ids if i in about.artifacts):
        if statistics.type == "ExampleStatistics" and (counts := count_examples(statistics.uri)):
            yield " + ".join(f"{count:,} {split}" for split, count in counts.items()) + " examples"
            return
