"""What stands in the files and properties of an artifact, in the words of a person."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from components.evaluator.summary import CANDIDATE, SUMMARY, Evaluation, read_evaluation
from components.formula_metrics.scores import SCORES
from components.serving_folder import SERVING_VERSION, WITHDRAWN, not_pushed, version_status
from data.dataset.record import SPLITS
from pipeline.lineage.files import look
from pipeline.lineage.graph import DESTINATION, Artifact, Execution, Graph
from trainer_module.features import SPECIALS, VOCABULARY, read_vocabulary

GONE = "its files are gone"
# Of the scores; the report has all of them.
SHOWN = ("bleu", "exact_match", "image_match")
# Properties of components that name what they brought in from outside.
SOURCES = ("input_base", "schema_file")


def notes(artifact: Artifact, about: Graph) -> Iterator[str]:
    """Lines about an artifact.

    Args:
        artifact: whatever it is.
        about: where what belongs to it is looked for, such as the statistics of examples.
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
        case "Model" if SERVING_VERSION in artifact.properties:
            yield _baseline(artifact)
        case "Examples":
            yield from _counts(artifact, about)


def sources(execution: Execution) -> list[tuple[str, bool]]:
    """What an execution brought in from outside, and whether it is still there."""
    paths = [str(execution.properties[name]) for name in SOURCES if execution.properties.get(name)]
    # Relative ones are in the image of a cluster.
    return [(path, "://" in path or not os.path.isabs(path) or os.path.exists(path)) for path in paths]


def is_there(artifact: Artifact) -> bool:
    """Whether an artifact's files are there; of remote ones nothing is known, and it counts as true."""
    return "://" in artifact.uri or os.path.exists(artifact.uri)


def now(artifact: Artifact) -> str:
    """What became of a version that was pushed; "" of anything else, and where it is not known."""
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
        yield f"{'kept  ' if verdict.kept else 'broken'}  {verdict.rule}  ({verdict.text})"


def vocabulary_size(graph: str) -> int | None:
    """The tokens that Transform wrote into its graph, the four specials not counted; None where the file is gone."""
    file = look(graph, f"transform_fn/assets/{VOCABULARY}")
    return len(read_vocabulary(file)) - SPECIALS if file else None


def _baseline(artifact: Artifact) -> str:
    version = artifact.properties[SERVING_VERSION]
    if not version:
        return "nothing was serving yet"
    origin = f", pushed as artifact {artifact.copy_of}" if artifact.copy_of else ""
    return f"the model that was serving, version {version}{origin}"


def count_examples(statistics: str | Path) -> dict[str, int]:
    """The examples of every split, as StatisticsGen counted them in its output."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    counts = {}
    folder = look(str(statistics)) or Path(statistics)
    for split in SPLITS:
        for file in (folder / f"Split-{split}").glob("*"):
            (found,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read_bytes()).datasets
            counts[split] = int(found.num_examples)
    return counts


def _counts(artifact: Artifact, about: Graph) -> Iterator[str]:
    """The examples by split, where they were counted."""
    made = [i for user in about.users.get(artifact.id, ()) for i in about.executions[user].given()]
    for statistics in (about.artifacts[i] for i in made if i in about.artifacts):
        if statistics.type == "ExampleStatistics" and (counts := count_examples(statistics.uri)):
            yield " + ".join(f"{count:,} {split}" for split, count in counts.items()) + " examples"
            return
