"""Runs of a cluster that do no work: what their tasks record, by the pipeline's real components."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from typing import Any

from ml_metadata import MetadataStore
from tfx.types.artifact import Artifact

from components.metadata import ADDRESS, read_steps
from kubeflow.entrypoint import RUN, NodeSpec
from kubeflow.recording import Recorder
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS
from pipeline.pipeline import create_pipeline
from pipeline.running.record import code, knobs_of

# The inputs of the last task.
LEAVES = (("Reporter", "report"),)
_environment = threading.Lock()


class Runs:
    """Runs of a cluster that do no work, and the artifacts that its cache would know."""

    def __init__(self, address: str = "") -> None:
        """
        Args:
            address: of the database; "" is the SQLite file of the workspace, which is treated as one.
        """
        self.components = create_pipeline(
            load_config(), data="/data", pipeline_root="", serving="/mnt/im2latex/serving/im2latex"
        ).components
        self.artifacts: dict[tuple[str, str], Artifact] = {}
        self._address = address

    def recorder(self, run: str, node: NodeSpec) -> Recorder:
        with _environment:
            os.environ[RUN] = run
            try:
                return Recorder(self._address, node)
            finally:
                del os.environ[RUN]

    def component(self, name: str) -> Any:
        return next(component for component in self.components if component.id == name)

    def inputs(self, name: str) -> dict[str, list[Artifact]]:
        """As the entry point makes them: a path of the launcher, the address, the id of another store."""
        channels = self.component(name).inputs
        return {key: [self.artifact((c.producer_component_id, c.output_key))] for key, c in channels.items()}

    def artifact(self, key: tuple[str, str]) -> Artifact:
        artifact = type(self.artifacts[key])()
        address = self.artifacts[key].uri
        artifact.uri = address.replace("s3://", "/s3/")
        artifact.set_string_custom_property(ADDRESS, address)
        artifact.id = 1_000_000
        return artifact

    def outputs(self, run: str, name: str) -> dict[str, list[Artifact]]:
        artifacts = {}
        for key, channel in self.component(name).outputs.items():
            artifact = channel.type()
            artifact.uri = f"s3://runs/im2latex/{run}/{name}/{key}"
            self.artifacts[name, key] = artifact
            artifacts[key] = [self.artifact((name, key))]
            if name == "Pusher":
                artifacts[key][0].set_int_custom_property("pushed", 1)
            if name == "Evaluator" and key == "blessing":
                artifacts[key][0].set_string_custom_property("current_model", "/s3/runs/model")
        return artifacts

    def do(self, run: str, name: str) -> None:
        """Records a task that executes."""
        node = NodeSpec.of(self.component(name), "im2latex")
        properties = {key: value for key, value in self.component(name).exec_properties.items() if value is not None}
        inputs = self.inputs(name)
        recorder = self.recorder(run, node)
        if name == "ImportExampleGen":
            properties["input_base"] = "/s3/formulas/records"
            knobs = {"knobs": knobs_of(load_config()), "code": code()}
            recorder.describe_run(knobs, "s3://formulas/records")
        with recorder.recorded(inputs, self.outputs(run, name), properties):
            assert all(artifact.id < 1_000_000 for artifacts in inputs.values() for artifact in artifacts)

    def end(self, run: str) -> None:
        """Records the last task."""
        self.finisher(run).record_cached({key: [self.artifact((name, key))] for name, key in LEAVES})

    def finisher(self, run: str) -> Recorder:
        return self.recorder(run, NodeSpec("record-lineage", {}, "im2latex"))

    def whole(self, run: str, worked: Collection[str] = COMPONENTS) -> None:
        for name in COMPONENTS:
            if name in worked:
                self.do(run, name)
        self.end(run)


def states(store: MetadataStore, run: str) -> dict[str, str]:
    """Returns the execution of each component of a run, which has one of each."""
    steps, _ = read_steps(store, run)
    assert len(steps) == len({step.component for step in steps})
    return {step.component: step.state for step in steps}
