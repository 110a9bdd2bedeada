"""ServingCheck: blocks the push of a model that does not load in a fresh process, or reads images too slowly there.

The Evaluator runs a model inside TFX, in a process that has imported this project's code. A server has the SavedModel
only. TFX's InfraValidator starts such a server in Docker or Kubernetes; this component needs neither, and also measures
load time, latency and memory. Its output has the type of InfraValidator's, so that Pusher can read it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any, TypeVar

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils, path_utils

from components.serving_check.fresh_process import CheckResult, check_serving
from data.dataset.tfrecords import read_split
from im2latex.errors import UserError

# The file in the artifact that repeats its custom properties, for people and other programs.
RESULT = "result.json"

Item = TypeVar("Item")


class ServingCheckSpec(ComponentSpec):
    """Inputs, outputs and parameters of ServingCheck."""

    PARAMETERS = {
        "split": ExecutionParameter(type=str),
        "images": ExecutionParameter(type=int),
        "max_seconds": ExecutionParameter(type=float),
    }
    INPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "examples": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"blessing": ChannelParameter(type=standard_artifacts.InfraBlessing)}


class Executor(base_executor.BaseExecutor):
    """Runs the model on images in a fresh process and writes the result."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Sets the properties of `blessing`: `blessed` (0 or 1), the measurements, and the `reason` if it is rejected.

        Raises:
            UserError: the split has no examples.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(input_dict["model"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        images = read_images(examples, exec_properties["split"], exec_properties["images"])
        result = check_serving(path_utils.serving_model_path(model.uri), images, exec_properties["max_seconds"])
        _write(result, artifact_utils.get_single_instance(output_dict["blessing"]))
        logging.info("The model is %s.", "blessed" if result.blessed else f"rejected: {result.reason}")


class ServingCheck(base_component.BaseComponent):
    """Runs a new model on real images in a fresh process, as a server would."""

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, model: types.BaseChannel, examples: types.BaseChannel, split: str, images: int, max_seconds: float
    ) -> None:
        """
        Args:
            model: the new model.
            examples: tf.Example records with `image`, gzipped, as ImportExampleGen writes them.
            split: split of the examples that the images are taken from.
            images: number of images, spread over the split; at least 1. If the split is smaller, all of it is used.
            max_seconds: maximum median time for one image, seconds.
        """
        blessing = types.Channel(standard_artifacts.InfraBlessing)
        super().__init__(
            ServingCheckSpec(
                model=model, examples=examples, split=split, images=images, max_seconds=max_seconds, blessing=blessing
            )
        )


def read_images(examples: types.Artifact, split: str, count: int) -> list[bytes]:
    """Reads up to `count` images, spread over a split.

    Raises:
        UserError: the split has no examples.
    """
    records = read_split(artifact_utils.get_split_uri([examples], split))
    images = [record.image for record in spread(records, count)]
    if not images:
        raise UserError(f"the split {split} has no examples to test the model with; choose another split")
    return images


def spread(items: Iterable[Item], count: int) -> list[Item]:
    """Selects up to `count` items at even distances, beginning with the first.

    It iterates once, and has at most 2 * `count` items in memory.
    """
    selected: list[Item] = []
    step = 1
    for number, item in enumerate(items):
        if number % step == 0:
            selected.append(item)
        if len(selected) == 2 * count:
            selected, step = selected[::2], 2 * step
    return [selected[i * len(selected) // count] for i in range(count)] if len(selected) > count else selected


def _write(result: CheckResult, blessing: types.Artifact) -> None:
    measured = dataclasses.asdict(result)
    reason = measured.pop("reason")
    properties: dict[str, Any] = {"blessed": result.blessed}
    properties |= {name: value for name, value in measured.items() if value is not None}
    properties |= {"reason": reason} if reason else {}
    for name, value in properties.items():
        if isinstance(value, str):
            blessing.set_string_custom_property(name, value)
        elif isinstance(value, float):
            blessing.set_float_custom_property(name, value)
        else:
            blessing.set_int_custom_property(name, value)
    io_utils.write_string_file(os.path.join(blessing.uri, RESULT), json.dumps(properties, indent=2) + "\n")
