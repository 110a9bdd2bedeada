"""Runs of the components on Beam, and their outputs in a form that can be compared between runners."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data.dataset.record import SPLITS
from data.dataset.tfrecords import read_split, read_tfrecords
from tests.project import Project


@dataclass(frozen=True)
class Results:
    """Outputs of the steps up to Transform, in a form that does not depend on the order of records."""

    examples: dict[str, Counter]
    statistics: dict[str, dict[str, str]]
    vocabulary: bytes
    transformed: dict[str, Counter]


def run(project: Project, *settings: str, to: str = "Transform") -> str:
    """Runs the steps up to one with these settings. Returns the output of the command."""
    done = project.run("--to", to, *arguments(list(settings)))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def arguments(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def latest(project: Project, component: str, output: str) -> Path:
    folders = (project.home / "pipeline_root" / component / output).iterdir()
    return max(folders, key=lambda path: int(path.name))


def results(project: Project) -> Results:
    """Returns the outputs of the last run."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    examples, statistics = (
        latest(project, "ImportExampleGen", "examples"),
        latest(project, "StatisticsGen", "statistics"),
    )
    by_feature = {}
    for split in SPLITS:
        content = (statistics / f"Split-{split}" / "FeatureStats.pb").read_bytes()
        (dataset,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(content).datasets
        by_feature[split] = {"examples": str(dataset.num_examples)}
        by_feature[split] |= {feature.path.step[0]: str(feature) for feature in dataset.features}
    (vocabulary,) = (latest(project, "Transform", "transform_graph") / "transform_fn" / "assets").iterdir()
    transformed = latest(project, "Transform", "transformed_examples")
    return Results(
        examples={split: Counter(read_split(examples / f"Split-{split}")) for split in SPLITS},
        statistics=by_feature,
        vocabulary=vocabulary.read_bytes(),
        transformed={split: parsed(transformed / f"Split-{split}") for split in ("train", "eval")},
    )


def parsed(folder: Path) -> Counter:
    """The tf.Examples of a split; their bytes may have the features in any order."""
    import tensorflow as tf

    shards = folder.glob("*.gz")
    return Counter(str(tf.train.Example.FromString(part)) for shard in shards for part in read_tfrecords(shard))


def with_python() -> dict[str, str]:
    """Returns the environment for Beam's worker pools, which start `python`: it is this one."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def wait_for_server(process: subprocess.Popen, host: str, port: int, seconds: float = 120) -> None:
    """Waits until a process accepts connections."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        assert process.poll() is None and time.monotonic() < deadline, process.args
        time.sleep(0.3)
