"""Reporter: writes the HTML report of a run, including runs whose model was rejected.

The steps of a run and their durations are in ML Metadata, which an executor cannot read. Where the orchestrator runs
drivers (LocalDagRunner), the driver reads them and passes them on as an execution property: for each step the time of
its execution and the run that executed it. These stay the same if another run takes all steps from the cache, so that
its report comes from the cache too. On other orchestrators the report refers to the orchestrator for the steps.
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
    """The artifact of a report: a folder with `report.html`."""

    TYPE_NAME = "Report"


class ReporterSpec(ComponentSpec):
    """Inputs, outputs and parameters of Reporter."""

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
        "anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies, optional=True),
        "tuner_results": ChannelParameter(type=standard_artifacts.TunerResults, optional=True),
    }
    OUTPUTS = {"report": ChannelParameter(type=Report)}


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Reads the steps of the run before the cache lookup."""

    def __init__(self, metadata_handle: Any) -> None:
        # The compiler needs the first base class, the launcher the second; as in TFX's ExampleGen.
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Sets the execution property `steps`."""
        with self._mlmd_connection as connection:
            steps, _ = read_steps(connection.store, execution_info.pipeline_run_id)
        output = driver_output_pb2.DriverOutput()
        output.exec_properties[STEPS].string_value = json.dumps(origins(steps))
        return output


class Executor(base_executor.BaseExecutor):
    """Writes the report."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Writes `report.html` to `report`."""
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
    """Writes the HTML report of a run."""

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
        anomalies: types.BaseChannel | None = None,
        tuner_results: types.BaseChannel | None = None,
    ) -> None:
        """
        Args:
            pipeline: name of the pipeline.
            settings: name, value and help of every knob of the configuration.
            data: folder of the TFRecords.
            split: split of the examples that the model is evaluated on.
            serving: the serving folder.
            examples: ImportExampleGen's output.
            transform_graph: Transform's output.
            model, model_run: Trainer's outputs.
            baseline: Baseline's output.
            evaluation, blessing: Evaluator's outputs.
            pushed_model: Pusher's output, which exists for models that were not pushed too.
            serving_check: ServingCheck's blessing.
            anomalies: ExampleValidator's output.
            tuner_results: Tuner's trials.
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
                anomalies=anomalies,
                pushed_model=pushed_model,
                tuner_results=tuner_results,
                report=types.Channel(Report),
            )
        )
