"""Reporter: writes what a run came to as one HTML file, for refused models too.

What ran, and for how long, stands in ML Metadata, which an executor does not see. Where the orchestrator runs
drivers (LocalDagRunner), the driver reads it and hands it over as an execution property. It hands over when
the work was done and by which run, which stays the same when another run takes all of it from the cache: then
the report comes from the cache too. Elsewhere the report says that the orchestrator keeps these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_driver, base_executor, executor_spec
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.metadata import Step, origins, output_of, read_steps, seen_from
from components.report.report_page import FILE, write_page
from components.report.reported_run import ReportedRun, Setting

STEPS = "steps"


class Report(types.Artifact):
    """A folder with `report.html`."""

    TYPE_NAME = "Report"


class ReporterSpec(ComponentSpec):
    """What Reporter takes and gives."""

    PARAMETERS = {
        "pipeline": ExecutionParameter(type=str),
        "settings": ExecutionParameter(type=str),
        "data": ExecutionParameter(type=str),
        "split": ExecutionParameter(type=str),
        "serving": ExecutionParameter(type=str),
        STEPS: ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "model_run": ChannelParameter(type=standard_artifacts.ModelRun),
        "baseline": ChannelParameter(type=standard_artifacts.Model),
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
        "serving_check": ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        "pushed_model": ChannelParameter(type=standard_artifacts.PushedModel),
    }
    OUTPUTS = {"report": ChannelParameter(type=Report)}


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Reads what ran before the cache is asked."""

    def __init__(self, metadata_handle: Any) -> None:
        # The compiler asks for the first base class, the launcher for the second; as in TFX's ExampleGen.
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Sets `steps`."""
        with self._mlmd_connection as connection:
            steps, _ = read_steps(connection.store, execution_info.pipeline_run_id)
        output = driver_output_pb2.DriverOutput()
        output.exec_properties[STEPS].string_value = json.dumps(origins(steps))
        return output


class Executor(base_executor.BaseExecutor):
    """Writes the report."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Fills `report` with `report.html`."""
        self._log_startup(input_dict, output_dict, exec_properties)
        run_id = (self._context.pipeline_run_id if self._context else None) or ""
        steps = None
        if exec_properties.get(STEPS):
            steps = seen_from([Step(*step) for step in json.loads(exec_properties[STEPS])], run_id)
        run = ReportedRun(
            pipeline=exec_properties["pipeline"],
            id=run_id,
            steps=steps,
            artifacts={
                key: output_of(artifacts[0].mlmd_artifact) for key, artifacts in input_dict.items() if artifacts
            },
            settings=[Setting(*setting) for setting in json.loads(exec_properties["settings"])],
            data=exec_properties["data"],
            split=exec_properties["split"],
            serving=exec_properties["serving"],
        )
        write_page(run, Path(artifact_utils.get_single_uri(output_dict["report"]), FILE))


class Reporter(base_component.BaseComponent):
    """Writes what a run came to as one HTML file."""

    SPEC_CLASS = ReporterSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self,
        pipeline: str,
        settings: Iterable[tuple[str, Any, str]],
        data: str,
        split: str,
        serving: str,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        model: types.BaseChannel,
        model_run: types.BaseChannel,
        baseline: types.BaseChannel,
        evaluation: types.BaseChannel,
        blessing: types.BaseChannel,
        pushed_model: types.BaseChannel,
        serving_check: types.BaseChannel | None = None,
    ) -> None:
        """
        Args:
            pipeline: its name.
            settings: every knob of the configuration: name, value, line of help.
            data: folder of the TFRecords.
            split: of the examples, which judges the model.
            serving: the push destination, one folder of versions.
            examples: ImportExampleGen's.
            transform_graph: Transform's.
            model, model_run: Trainer's.
            baseline: Baseline's.
            evaluation, blessing: Evaluator's.
            pushed_model: Pusher's, of a model that was not pushed too.
            serving_check: ServingCheck's blessing.
        """
        super().__init__(
            ReporterSpec(
                pipeline=pipeline,
                settings=json.dumps(list(settings)),
                data=data,
                split=split,
                serving=serving,
                examples=examples,
                transform_graph=transform_graph,
                model=model,
                model_run=model_run,
                baseline=baseline,
                evaluation=evaluation,
                blessing=blessing,
                serving_check=serving_check,
                pushed_model=pushed_model,
                report=types.Channel(Report),
            )
        )
