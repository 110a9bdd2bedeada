"""Tasks of several runs record themselves at the same time, in a real MariaDB that is empty at first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ml_metadata import MetadataStore

from kubeflow import recording
from kubeflow.entrypoint import NodeSpec
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.address import PASSWORD
from pipeline.lineage.store import connection
from pipeline.workspace import Workspace
from tests.kubeflow.recorded_runs import LEAVES, Runs, states
from tests.platforms import mariadb

RUNS = ("one", "two", "three")


@pytest.mark.skipif(not mariadb.INSTALLED, reason=mariadb.MISSING)
def test_tasks_of_several_runs_record_each_component_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, mariadb.PASSWORD)
    monkeypatch.setattr(recording, "fingerprint_of", lambda folder: "f" * 64)
    (tmp_path / "database").mkdir()
    with mariadb.running(tmp_path / "database") as server, ThreadPoolExecutor(6) as pool:
        clusters = {run: Runs(server.address()) for run in RUNS}
        node = NodeSpec.of(clusters["one"].component("Trainer"), "im2latex")

        def whole(run: str) -> None:
            runs = clusters[run]
            for name in COMPONENTS:
                if name == "Trainer":  # killed, and tried again
                    inputs, outputs = runs.inputs(name), runs.outputs(run, name)
                    with pytest.raises(KeyboardInterrupt), runs.recorder(run, node).recorded(inputs, outputs, {}):
                        raise KeyboardInterrupt
                runs.do(run, name)
            runs.end(run)

        list(pool.map(whole, RUNS))
        store = MetadataStore(connection(server.address(), Workspace(tmp_path)))
        for run in RUNS:
            assert states(store, run) == dict.fromkeys(COMPONENTS, "ran")

        # A fully cached run, recorded by three containers at the same time.
        finishers = [clusters["one"].finisher("cached") for _ in range(3)]
        leaves = [{key: [clusters["one"].artifact((name, key))] for name, key in LEAVES} for _ in finishers]
        list(pool.map(recording.Recorder.record_cached, finishers, leaves))
        assert states(store, "cached") == dict.fromkeys(COMPONENTS, "cached")
        outputs = sum(len(component.outputs) for component in clusters["one"].components)
        assert (len(store.get_executions()), len(store.get_artifacts())) == (4 * len(COMPONENTS), 3 * outputs)
