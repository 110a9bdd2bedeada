"""Pusher: puts a blessed model into the serving folder as a new version, whole or not at all.

Two have to bless it: the Evaluator, what it reads, and ServingCheck, that a server can run it. TFX's Pusher takes a
missing blessing for a given one; this one does not.

TFX's Pusher copies file by file into the version's folder, where a killed run leaves half a
model under a name that a server will try to load. This one copies beside it and renames. Behind a
push it deletes the oldest versions, where the folder is a local one.

The cache: pushing acts on the world outside, which the inputs do not describe. The driver looks
whether the model is the one serving; if so the version goes into the cache key and nothing is
pushed twice, if not (the folder was deleted, another model serves) a new version does. A model that
was withdrawn is not pushed again: whoever took it back would find it serving after the next run.
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
# Properties: the version to push, "" for none; the withdrawn version that is this very model, "" for none; how many
# versions are kept.
VERSION, KEEP = "version", "keep"


class Executor(executor.Executor):
    """Pushes what both have blessed: copies to a name no server looks at, then renames."""

    def CheckBlessing(self, input_dict: dict[str, list]) -> bool:
        """Whether both blessings are there and say so."""
        return all(input_dict.get(key) for key in BLESSINGS) and super().CheckBlessing(input_dict)

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Pushes `model` when both blessings say so; `pushed_model` tells the destination and version."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        folder, model = _destination(exec_properties), self.GetModelPath(input_dict)
        with contextlib.nullcontext() if "://" in folder else _locked(folder):
            # Asked again: it may have been withdrawn since the driver looked.
            version, withdrawn = choose_version(folder, model)
            if withdrawn:
                logging.warning("%s was withdrawn as version %s of %s: it is not pushed.", model, withdrawn, folder)
                pushed.set_string_custom_property(WITHDRAWN, withdrawn)
                self._MarkNotPushed(pushed)
                return
            version = exec_properties.get(VERSION) or version
            target = os.path.join(folder, version)
            for path in fileio.glob(os.path.join(folder, "*" + PARTIAL)):  # of a killed run
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
    """Chooses the version before the cache is asked."""

    def __init__(self, metadata_handle: Any) -> None:
        # The compiler asks for the first base class, the launcher for the second; as in TFX's ExampleGen.
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Sets `version`, empty for a model that is not blessed or was withdrawn, and `withdrawn`."""
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
            model_blessing: the Evaluator's verdict.
            infra_blessing: ServingCheck's verdict.
            serving: the folder of versions to push to.
            keep: versions that stay there, and as many withdrawn ones; 0 for all.
        """
        filesystem = pusher_pb2.PushDestination.Filesystem(base_directory=serving)
        destination = pusher_pb2.PushDestination(filesystem=filesystem)
        super().__init__(
            model=model, model_blessing=model_blessing, infra_blessing=infra_blessing, push_destination=destination
        )
        self.exec_properties[KEEP] = keep


def choose_version(folder: str, model: str) -> tuple[str, str]:
    """The version under which a model is to be pushed, and the withdrawn version that it is a copy of; one is "".

    It is the newest version when that is this very model, else a new one: the time in seconds, above all others.
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
