"""Baseline: takes the model that is serving now into the pipeline, so that a new one can be compared with it.

TFX would use a resolver node for that, which Kubeflow Pipelines does not run, and which looks for
the model blessed last, not for the one that serves. This component looks into the push
destination when it runs: it works on every orchestrator, and sees a version that another pipeline
pushed or that a person deleted.

The cache: where the orchestrator runs drivers (LocalDagRunner), the driver finds the version
before the cache is asked and makes it part of the key. Nothing changed since the last push: same
model, same version to compare with, cache hit. Another model serves now: a new comparison.
Elsewhere the executor finds the version.
"""

from __future__ import annotations

import os
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_component, base_driver, base_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils, path_utils

from components.baseline.choice import Serving, newest_other
from components.serving_folder import COPY_OF, PASSED_OVER, SERVING_VERSION


class BaselineSpec(ComponentSpec):
    """What Baseline takes and gives."""

    PARAMETERS = {
        "serving": ExecutionParameter(type=str),
        SERVING_VERSION: ExecutionParameter(type=str, optional=True),
        PASSED_OVER: ExecutionParameter(type=str, optional=True),
        COPY_OF: ExecutionParameter(type=int, optional=True),
    }
    INPUTS = {"model": ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {"baseline": ChannelParameter(type=standard_artifacts.Model)}


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Finds the version to compare with before the cache is asked."""

    def __init__(self, metadata_handle: Any) -> None:
        # The compiler asks for the first base class, the launcher for the second; as in TFX's ExampleGen.
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Sets `serving_version`, `passed_over`, and `pushed_model` where ML Metadata knows who pushed that version."""
        output = driver_output_pb2.DriverOutput()
        found = _find(execution_info.input_dict, execution_info.exec_properties)
        output.exec_properties[SERVING_VERSION].string_value = found.version
        output.exec_properties[PASSED_OVER].string_value = found.passed_over
        pushed = self._pushed(os.path.join(execution_info.exec_properties["serving"], found.version))
        if found.version and pushed is not None:
            output.exec_properties[COPY_OF].int_value = pushed
        return output

    def _pushed(self, destination: str) -> int | None:
        """The artifact that Pusher made when it pushed to this folder last."""
        if self._metadata_handle is None:
            return None
        with self._metadata_handle as handle:
            pushed = handle.store.get_artifacts_by_type(standard_artifacts.PushedModel.TYPE_NAME)
        ids = [
            artifact.id
            for artifact in pushed
            if artifact.custom_properties["pushed_destination"].string_value == destination
        ]
        return max(ids, default=None)


class Executor(base_executor.BaseExecutor):
    """Copies the version to compare with into the artifact, or leaves it empty."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Fills `baseline` with the serving model (`Format-Serving/`) and names its version in `serving_version`."""
        self._log_startup(input_dict, output_dict, exec_properties)
        version, passed_over = exec_properties.get(SERVING_VERSION), exec_properties.get(PASSED_OVER, "")
        if version is None:
            version, passed_over = _find(input_dict, exec_properties)
        baseline = artifact_utils.get_single_instance(output_dict["baseline"])
        baseline.set_string_custom_property(SERVING_VERSION, version)
        if passed_over:
            baseline.set_string_custom_property(PASSED_OVER, passed_over)
            logging.warning("Passed over as the baseline: %s", passed_over)
        if exec_properties.get(COPY_OF):
            baseline.set_int_custom_property(COPY_OF, exec_properties[COPY_OF])
        if version:
            # A copy, so that the evaluation stays readable when the serving folder moves on.
            io_utils.copy_dir(
                os.path.join(exec_properties["serving"], version),
                path_utils.serving_model_dir(baseline.uri),
            )
            logging.info("Version %s is the baseline.", version)
        else:
            fileio.makedirs(baseline.uri)
            logging.info("Nothing is serving in %s: there is no baseline.", exec_properties["serving"])


class Baseline(base_component.BaseComponent):
    """Finds the model that is serving now."""

    SPEC_CLASS = BaselineSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(self, model: types.BaseChannel, serving: str) -> None:
        """
        Args:
            model: the new model, which is never compared with itself.
            serving: the push destination, one folder of versions.
        """
        super().__init__(BaselineSpec(model=model, serving=serving, baseline=types.Channel(standard_artifacts.Model)))


def _find(input_dict: dict[str, list], exec_properties: dict[str, Any]) -> Serving:
    model = artifact_utils.get_single_instance(input_dict["model"])
    return newest_other(exec_properties["serving"], path_utils.serving_model_path(model.uri))
