"""ServingCheck: a model that does not load in a fresh process, or answers real images too slowly there, is not pushed.

The Evaluator runs a model inside TFX, in a process that has all of this project's code. A server has the SavedModel
alone. TFX's InfraValidator starts such a server, in Docker or Kubernetes; this component needs neither, and also
measures. Its output is InfraValidator's, so that Pusher reads it as it is.
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

# Beside the custom properties of the artifact, the same for people and other programs.
RESULT = "result.json"

Item = TypeVar("Item")


class ServingCheckSpec(ComponentSpec):
    """What ServingCheck takes and gives."""

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
    """Lets the model answer images in a fresh process and writes the verdict down."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Fills `blessing`: `blessed` (0 or 1), what was measured, and the `reason` of a refusal.

        Raises:
            UserError: the split has no example.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(input_dict["model"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        images = read_images(examples, exec_properties["split"], exec_properties["images"])
        verdict = check_serving(path_utils.serving_model_path(model.uri), images, exec_properties["max_seconds"])
        _write(verdict, artifact_utils.get_single_instance(output_dict["blessing"]))
        logging.info("The model is %s.", "blessed" if verdict.blessed else f"refused: {verdict.reason}")


class ServingCheck(base_component.BaseComponent):
    """Lets a new model answer real images as a server would."""

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, model: types.BaseChannel, examples: types.BaseChannel, split: str, images: int, max_seconds: float
    ) -> None:
        """
        Args:
            model: the new model.
            examples: tf.Example records with `image`, gzipped, as ImportExampleGen writes them.
            split: which of them to take images from.
            images: how many, spread over the split; at least 1. A smaller split gives all it has.
            max_seconds: the bound on the median time to answer one image.
        """
        blessing = types.Channel(standard_artifacts.InfraBlessing)
        super().__init__(
            ServingCheckSpec(
                model=model, examples=examples, split=split, images=images, max_seconds=max_seconds, blessing=blessing
            )
        )


def read_images(examples: types.Artifact, split: str, count: int) -> list[bytes]:
    """Up to `count` images, spread over a split.

    Raises:
        UserError: the split has no example.
    """
    records = read_split(artifact_utils.get_split_uri([examples], split))
    images = [record.image for record in spread(records, count)]
    if not images:
        raise UserError(f"the split {split} has no example to try the model with; choose another split, or fill it")
    return images


def spread(items: Iterable[Item], count: int) -> list[Item]:
    """Up to `count` items at even distances, the first among them; reads them once and holds twice as many at most."""
    held: list[Item] = []
    step = 1
    for number, item in enumerate(items):
        if number % step == 0:
            held.append(item)
        if len(held) == 2 * count:
            held, step = held[::2], 2 * step
    return [held[i * len(held) // count] for i in range(count)] if len(held) > count else held


def _write(verdict: CheckResult, blessing: types.Artifact) -> None:
    measured = dataclasses.asdict(verdict)
    reason = measured.pop("reason")
    facts: dict[str, Any] = {"blessed": verdict.blessed}
    facts |= {name: value for name, value in measured.items() if value is not None}
    facts |= {"reason": reason} if reason else {}
    for name, value in facts.items():
        if isinstance(value, str):
            blessing.set_string_custom_property(name, value)
        elif isinstance(value, float):
            blessing.set_float_custom_property(name, value)
        else:
            blessing.set_int_custom_property(name, value)
    io_utils.write_string_file(os.path.join(blessing.uri, RESULT), json.dumps(facts, indent=2) + "\n")
