"""Baseline: imports the model that is serving now, so that the Evaluator can compare a new model with it.

TFX's own way is a resolver node. Kubeflow Pipelines does not run resolvers, and they return the model that was blessed
last, which need not be the one that serves. This component lists the serving folder when it runs. So it works on every
orchestrator, and it sees versions that another pipeline pushed or that a person deleted.

Caching: where the orchestrator runs drivers (LocalDagRunner), the driver finds the version before the cache lookup and
makes it part of the cache key. If nothing changed since the last push, model and version are the same: a cache hit. If
another model serves now, the key differs and the models are compared again. Other orchestrators run no drivers; there
the executor finds the version.
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

from components.baseline.choice import BaselineChoice, newest_other
from components.serving_folder import COPY_OF, SERVING_VERSION, SKIPPED


class BaselineSpec(ComponentSpec):
    """Inputs, outputs and parameters of Baseline."""

    PARAMETERS = {
        "serving": ExecutionParameter(type=str),
        SERVING_VERSION: ExecutionParameter(type=str, optional=True),
        SKIPPED: ExecutionParameter(type=str, optional=True),
        COPY_OF: ExecutionParameter(type=int, optional=True),
    }
    INPUTS = {"model": ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {"baseline": ChannelParameter(type=standard_artifacts.Model)}


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Finds the baseline version before the cache lookup."""

    def __init__(self, metadata_handle: Any) -> None:
        # The compiler needs the first base class, the launcher the second; as in TFX's ExampleGen.
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Sets `serving_version`, `skipped` and, if ML Metadata has the artifact of the push, `pushed_model`."""
        output = driver_output_pb2.DriverOutput()
        serving = _find_serving(execution_info.input_dict, execution_info.exec_properties)
        output.exec_properties[SERVING_VERSION].string_value = serving.version
        output.exec_properties[SKIPPED].string_value = serving.skipped
        pushed = self._pushed(os.path.join(execution_info.exec_properties["serving"], serving.version))
        if serving.version and pushed is not None:
            output.exec_properties[COPY_OF].int_value = pushed
        return output

    def _pushed(self, destination: str) -> int | None:
        """Returns the id of the artifact of Pusher's last push to this folder; None if there is none."""
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
    """Copies the baseline version into the artifact, or leaves the artifact empty."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Copies the serving model into `baseline` (`Format-Serving/`) and sets its property `serving_version`."""
        self._log_startup(input_dict, output_dict, exec_properties)
        version, skipped = exec_properties.get(SERVING_VERSION), exec_properties.get(SKIPPED, "")
        if version is None:
            version, skipped = _find_serving(input_dict, exec_properties)
        baseline = artifact_utils.get_single_instance(output_dict["baseline"])
        baseline.set_string_custom_property(SERVING_VERSION, version)
        if skipped:
            baseline.set_string_custom_property(SKIPPED, skipped)
            logging.warning("Skipped as the baseline: %s", skipped)
        if exec_properties.get(COPY_OF):
            baseline.set_int_custom_property(COPY_OF, exec_properties[COPY_OF])
        if version:
            # A copy, so that the baseline outlives its version in the serving folder.
            io_utils.copy_dir(
                os.path.join(exec_properties["serving"], version),
                path_utils.serving_model_dir(baseline.uri),
            )
            logging.info("Version %s is the baseline.", version)
        else:
            fileio.makedirs(baseline.uri)
            logging.info("Nothing is serving in %s: there is no baseline.", exec_properties["serving"])


class Baseline(base_component.BaseComponent):
    """Imports the model that is serving now."""

    SPEC_CLASS = BaselineSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(self, model: types.BaseChannel, serving: str) -> None:
        """
        Args:
            model: the new model. It is never compared with itself.
            serving: the serving folder, which holds one folder per version.
        """
        super().__init__(BaselineSpec(model=model, serving=serving, baseline=types.Channel(standard_artifacts.Model)))


def _find_serving(input_dict: dict[str, list], exec_properties: dict[str, Any]) -> BaselineChoice:
    model = artifact_utils.get_single_instance(input_dict["model"])
    return newest_other(exec_properties["serving"], path_utils.serving_model_path(model.uri))
