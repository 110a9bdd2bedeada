from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tfx import types
from tfx.dsl.io import fileio
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils, proto_utils

from components.pusher.component import KEEP, VERSION, Driver, Executor, Pusher
from components.serving_folder import WITHDRAWN, activate, digest, lock, versions
from tests.components.artifacts import artifact, execution, trained


@pytest.fixture
def model(tmp_path: Path) -> Any:
    folder = tmp_path / "model" / "Format-Serving"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return trained(tmp_path / "model")


class Push:
    """Pushes a model; by default, its `infra_blessing` is positive if `serves` is true."""

    def __init__(
        self, model: Any, folder: Path, blessed: bool = True, serves: bool = True, infra_blessing: Any = None
    ) -> None:
        blessing = artifact(standard_artifacts.ModelBlessing, folder / "model_blessing")
        blessing.set_int_custom_property("blessed", int(blessed))
        if infra_blessing is None:
            infra_blessing = artifact(standard_artifacts.InfraBlessing, folder / "infra_blessing")
            infra_blessing.set_int_custom_property("blessed", int(serves))
        self.inputs = {"model": model, "model_blessing": blessing, "infra_blessing": infra_blessing}
        self.serving = folder / "serving"
        self.pushed = artifact(standard_artifacts.PushedModel, folder / "pushed")
        filesystem = pusher_pb2.PushDestination.Filesystem(base_directory=str(self.serving))
        destination = pusher_pb2.PushDestination(filesystem=filesystem)
        self.properties = {"push_destination": proto_utils.proto_to_json(destination)}

    def version(self) -> str:
        return Driver(None).run(execution(self.inputs, self.properties)).exec_properties[VERSION].string_value

    def run(self, version: str | None = None) -> list[int]:
        properties = self.properties if version is None else {**self.properties, VERSION: version}
        Executor().Do({key: [value] for key, value in self.inputs.items()}, {"pushed_model": [self.pushed]}, properties)
        return versions(str(self.serving))[::-1]


def test_a_blessed_model_becomes_the_newest_version(model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path)
    (push.serving / "99999999999").mkdir(parents=True)  # pushed by a machine with a wrong clock
    version = push.version()
    assert push.run(version) == [100000000000, 99999999999]
    assert push.pushed.get_string_custom_property("pushed_destination") == str(push.serving / version)
    assert push.pushed.get_int_custom_property("pushed") == 1
    assert digest(str(push.serving / version)) == digest(str(tmp_path / "model" / "Format-Serving"))


@pytest.mark.parametrize(("blessed", "serves"), [(False, True), (True, False), (False, False)])
def test_a_model_with_one_blessing_is_not_pushed(blessed: bool, serves: bool, model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path, blessed, serves)
    assert push.version() == ""
    assert push.run("") == []
    assert push.pushed.get_int_custom_property("pushed") == 0


@pytest.mark.parametrize("missing", ["model_blessing", "infra_blessing"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_blessing_counts_as_not_blessed(missing: str, empty: bool, model: Any, tmp_path: Path) -> None:
    inputs = {key: [value] for key, value in Push(model, tmp_path).inputs.items()}
    assert Executor().CheckBlessing(inputs)
    if empty:
        inputs[missing] = []
    else:
        del inputs[missing]
    assert not Executor().CheckBlessing(inputs)


def test_both_blessings_are_required(tmp_path: Path) -> None:
    channels = {
        "model": standard_artifacts.Model,
        "model_blessing": standard_artifacts.ModelBlessing,
        "infra_blessing": standard_artifacts.InfraBlessing,
    }
    pusher = Pusher(**{key: types.Channel(kind) for key, kind in channels.items()}, serving=str(tmp_path))
    assert {key: channel.type for key, channel in pusher.inputs.items()} == channels


def test_the_model_that_is_serving_is_not_pushed_again(model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path)
    first = push.version()
    push.run(first)
    assert push.version() == first  # the key of the cache is the same, so this is a cache hit
    assert push.run() == [int(first)]  # without a driver


def test_a_deleted_version_is_pushed_again(model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path)
    push.run("7")
    fileio.rmtree(str(push.serving))
    assert push.version() not in ("", "7")


def test_a_killed_push_leaves_no_version_and_the_next_push_cleans_up(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Push(model, tmp_path)
    real_copy = io_utils.copy_dir

    def killed_half_way(source: str, target: str) -> None:
        real_copy(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(io_utils, "copy_dir", killed_half_way)
        with pytest.raises(KeyboardInterrupt):
            push.run("7")
    assert versions(str(push.serving)) == []
    assert push.run("8") == [8]
    assert [path.name for path in push.serving.iterdir()] == ["8"]


def other(folder: Path, version: int) -> None:
    """Creates a version of another model."""
    (folder / str(version)).mkdir(parents=True)
    (folder / str(version) / "saved_model.pb").write_bytes(b"another graph %d" % version)


@pytest.mark.parametrize("driver", [True, False])
def test_a_withdrawn_model_is_not_pushed_again_until_it_is_restored(driver: bool, model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path)
    other(push.serving, 3)
    push.run("7")
    with lock(push.serving):
        activate(push.serving, 3)
    assert push.run(push.version() if driver else None) == [3]
    assert push.pushed.get_int_custom_property("pushed") == 0
    assert push.pushed.get_string_custom_property(WITHDRAWN) == "7"
    with lock(push.serving):
        activate(push.serving, 7)
    assert push.version() == "7"
    assert push.run() == [7, 3]


def test_a_model_that_is_withdrawn_during_the_run_is_not_pushed(model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path)
    other(push.serving, 3)
    push.run("7")
    version = push.version()
    with lock(push.serving):
        activate(push.serving, 3)
    assert push.run(version) == [3]


def test_a_version_is_higher_than_all_withdrawn_ones(model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path)
    other(push.serving, 3)
    other(push.serving / WITHDRAWN, 99999999999)
    assert push.version() == "100000000000"


def test_old_versions_are_deleted_after_a_push(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.serving_folder.GRACE_SECONDS", -60.0)
    push = Push(model, tmp_path)
    for version in (3, 4, 5):
        other(push.serving, version)
    push.properties[KEEP] = 0
    assert push.run("7") == [7, 5, 4, 3]
    push.properties[KEEP] = 2
    assert push.run("7") == [7, 5]  # another number of versions, the same model


def test_a_push_waits_for_the_lock(model: Any, tmp_path: Path) -> None:
    push = Push(model, tmp_path)
    other(push.serving, 3)
    with lock(push.serving):
        pushing = threading.Thread(target=push.run, args=("7",))
        pushing.start()
        pushing.join(0.5)
        assert versions(str(push.serving)) == [3]
    pushing.join(60)
    assert versions(str(push.serving)) == [3, 7]
