"""The components on Beam, on a Flink with two task managers: the same results, and both do a part of the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from data.dataset import writer
from data.pictures.synthetic import synthesize
from tests.platforms import flink
from tests.platforms.beam_runs import Results, results, run
from tests.project import Project

pytestmark = pytest.mark.one_stack
COUNTS = {"train": 240, "eval": 40, "test": 40}
STEPS = ["ImportExampleGen", "StatisticsGen", "Transform"]
# The least share of all records that the less busy task manager handles. Steps vary: Beam assigns files to tasks at
# random, and some stages combine all records into one result, which is the work of one task.
SHARE = 0.1


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace, and a few hundred formulas in many files: a task manager reads whole files."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "RECORDS_PER_SHARD", 10)
        synthesize(folder / "data", sum(COUNTS.values()), seed=5, splits=COUNTS, workers=1)
    return Project.of(folder, f'preset = "small"\n[data]\nsource = "{folder / "data"}"\n')


@pytest.fixture(scope="module")
def local(project: Project) -> Results:
    """The results of one process."""
    run(project)
    return results(project)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[flink.Cluster, str]]:
    """Three Java processes of at most 1.5 GB each, and two worker pools at one address."""
    with flink.cluster_of_two(tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


def test_two_task_managers_share_the_work_and_give_the_results_of_one_process(
    project: Project, local: Results, cluster: tuple[flink.Cluster, str]
) -> None:
    flink_cluster, pool = cluster
    assert {split: counter.total() for split, counter in local.examples.items()} == COUNTS
    before = len(project.executions())
    # Flink shows the name of the job. A worker that is idle for ten seconds ends.
    names = ", ".join(f'{step}=["--job_name={step.lower()}"]' for step in STEPS)
    output = run(
        project,
        *flink_cluster.settings,
        f"beam.worker_pool={pool}",
        "beam.arguments=['--environment_cache_millis=10000']",
        f"beam.by_component={{{names}}}",
    )
    assert f"on Flink {flink.VERSION}, 2 task managers, 2 slots: {flink_cluster.page}" in output
    states = dict(project.executions()[before:])
    assert [states[step] for step in STEPS] == ["COMPLETE"] * 3
    assert results(project) == local
    total = Counter({"one": 0, "two": 0})
    for step in STEPS:
        jobs = [job for job in flink_cluster.jobs() if job["name"].startswith(step.lower())]
        assert jobs and all(job["state"] == "FINISHED" for job in jobs)
        handled = Counter({"one": 0, "two": 0})
        for job in jobs:
            handled.update(flink_cluster.records(job["jid"]))
        assert min(handled.values()) > 0, (step, handled)
        total.update(handled)
    assert min(total.values()) > SHARE * total.total(), total
    # Each with workers of its own.
    assert all("Starting worker" in flink_cluster.log(f"pool-{name}") for name in ("one", "two"))
