"""Pusher: pushes a blessed model to the serving folder as a new version, atomically.

It requires two blessings: the Evaluator's, that the model is good enough, and ServingCheck's, that a server can run it.
TFX's Pusher treats a missing blessing as given; this one does not.

TFX's Pusher copies file by file into the version's folder. If the run is killed, half a model stays there under a name
that a server tries to load. This Pusher copies to a temporary name and renames. After a push it deletes the oldest
versions, if the serving folder is a local one.

Caching: a push changes the serving folder, which is not among the inputs. So the driver checks whether the model is
the one that serves. If it is, its version goes into the cache key, and nothing is pushed twice. If it is not (the
folder was deleted, another model serves), a new version goes into the key, and the model is pushed. A withdrawn model
is not pushed again; otherwise it would serve again after the next run.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from absl import logging
from tfx import types
from tfx.components.pusher import component, executor
from tfx.dsl.components.base import base_driver, executor_spec
from tfx.dsl.io import fileio
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto import pusher_pb2
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils, proto_utils

from components.serving_folder import PARTIAL, WITHDRAWN, delete_old, lock, serves, versions

BLESSINGS = ("model_blessing", "infra_blessing")
# Execution properties: the version to push, "" for none; the number of versions to keep. A third one is WITHDRAWN: the
# withdrawn version that is a copy of the model, "" for none.
VERSION, KEEP = "version", "keep"


class Executor(executor.Executor):
    """Pushes a model with both blessings: copies it to a name that servers ignore, then renames the copy."""

    def CheckBlessing(self, input_dict: dict[str, list]) -> bool:
        """Returns whether both blessings are given."""
        return all(input_dict.get(key) for key in BLESSINGS) and super().CheckBlessing(input_dict)

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Pushes `model` if both blessings are given; sets the destination and version in `pushed_model`."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        folder, model = _destination(exec_properties), self.GetModelPath(input_dict)
        with contextlib.nullcontext() if "://" in folder else _locked(folder):
            # Chosen again under the lock: the model may have been withdrawn since the driver ran.
            version, withdrawn = choose_version(folder, model)
            if withdrawn:
                logging.warning("%s was withdrawn as version %s of %s: it is not pushed.", model, withdrawn, folder)
                pushed.set_string_custom_property(WITHDRAWN, withdrawn)
                self._MarkNotPushed(pushed)
                return
            version = exec_properties.get(VERSION) or version
            target = os.path.join(folder, version)
            for path in fileio.glob(os.path.join(folder, "*" + PARTIAL)):  # leftovers of killed runs
                fileio.rmtree(path)
            if not fileio.exists(target):
                partial = target + PARTIAL
                io_utils.copy_dir(model, partial)
                fileio.rename(partial, target)
                logging.info("%s was pushed to %s.", model, target)
            if "://" not in folder:
                deleted = delete_old(Path(folder), exec_properties.get(KEEP, 0))
                logging.info("Old versions that were deleted: %s.", deleted or "none")
        io_utils.copy_dir(model, pushed.uri)
        self._MarkPushed(pushed, pushed_destination=target, pushed_version=version)


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Chooses the version before the cache lookup."""

    def __init__(self, metadata_handle: Any) -> None:
        # The compiler needs the first base class, the launcher the second; as in TFX's ExampleGen.
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Sets `withdrawn`, and `version`, which is empty if the model is not blessed or was withdrawn."""
        push = Executor()
        version = withdrawn = ""
        if push.CheckBlessing(execution_info.input_dict):
            folder = _destination(execution_info.exec_properties)
            version, withdrawn = choose_version(folder, push.GetModelPath(execution_info.input_dict))
        output = driver_output_pb2.DriverOutput()
        output.exec_properties[VERSION].string_value = version
        output.exec_properties[WITHDRAWN].string_value = withdrawn
        return output


class Pusher(component.Pusher):
    """TFX's Pusher with the executor and the driver above."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        infra_blessing: types.BaseChannel,
        serving: str,
        keep: int = 0,
    ) -> None:
        """
        Args:
            model: the new model.
            model_blessing: Evaluator's output.
            infra_blessing: ServingCheck's output.
            serving: the serving folder to push to.
            keep: number of versions, and of withdrawn versions, to keep; 0 keeps all.
        """
        filesystem = pusher_pb2.PushDestination.Filesystem(base_directory=serving)
        destination = pusher_pb2.PushDestination(filesystem=filesystem)
        super().__init__(
            model=model, model_blessing=model_blessing, infra_blessing=infra_blessing, push_destination=destination
        )
        self.exec_properties[KEEP] = keep


def choose_version(folder: str, model: str) -> tuple[str, str]:
    """Chooses the version to push a model as.

    Returns:
        The version, and the withdrawn version that the model is a copy of; one of them is "". If the newest version in
        the folder is a copy of the model, it is that one. Otherwise it is new: the Unix time in seconds, or one more
        than the highest version, whichever is greater.
    """
    numbers, withdrawn = versions(folder), versions(os.path.join(folder, WITHDRAWN))
    newest = max(numbers, default=0)
    if newest and serves(folder, newest, model):
        return str(newest), ""
    for version in reversed(withdrawn):
        if serves(os.path.join(folder, WITHDRAWN), version, model):
            return "", str(version)
    return str(max(int(time.time()), *(number + 1 for number in (*numbers, *withdrawn)), 0)), ""


def _locked(folder: str) -> contextlib.AbstractContextManager[None]:
    fileio.makedirs(folder)
    return lock(Path(folder))


def _destination(exec_properties: dict[str, Any]) -> str:
    destination = pusher_pb2.PushDestination()
    proto_utils.json_to_proto(exec_properties["push_destination"], destination)
    return destination.filesystem.base_directory
