from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl, kubernetes
from kfp import components as kfp_components
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from data.repository import REPOSITORY
from im2latex.errors import UserError
from kubeflow import runner
from kubeflow.runner import compile_pipeline, task_name
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS, Pod
from pipeline.pipeline import create_pipeline

CLUSTER = (
    "kubeflow.image=registry.example.org/im2latex@sha256:" + 64 * "a",
    "kubeflow.volume=models",
    "kubeflow.data=s3://bucket/data",
)


def compiled(*settings: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compiles the pipeline. Returns the two documents."""
    spec, platform = yaml.safe_load_all(compile_pipeline(load_config(settings=[*CLUSTER, *settings])))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    return compiled()


def test_kfp_reads_the_compiled_pipeline() -> None:
    text = compile_pipeline(load_config(settings=CLUSTER))
    loaded = kfp_components.load_component_from_text(text)
    assert loaded.pipeline_spec.schema_version == "2.1.0"
    assert loaded.pipeline_spec.pipeline_info.name == "im2latex"
    assert loaded.component_spec.inputs["data"].default == "s3://bucket/data"
    platform = json_format.MessageToDict(loaded.platform_spec)["platforms"]["kubernetes"]
    assert "exec-trainer" in platform["deploymentSpec"]["executors"]


def test_the_same_configuration_compiles_to_the_same_bytes() -> None:
    config = load_config(settings=CLUSTER)
    assert compile_pipeline(config) == compile_pipeline(config)


def test_every_component_is_a_task_of_containers_and_importers_alone(documents: Any) -> None:
    spec, _ = documents
    tasks = spec["root"]["dag"]["tasks"]
    resolved = {"resolve-import-example-gen", "resolve-baseline", "resolve-pusher"}
    assert set(tasks) == {task_name(component) for component in COMPONENTS} | resolved | {"import-data"}
    for name, executor in spec["deploymentSpec"]["executors"].items():
        if name == "exec-import-data":
            assert set(executor) == {"importer"}
        else:
            assert set(executor) == {"container"}
            # There are no hooks, because the backend ignores them.
            assert set(executor["container"]) <= {"image", "command", "args", "env", "resources"}
            assert executor["container"]["image"].endswith("@sha256:" + 64 * "a")


def test_a_search_is_a_task_before_the_trainer_with_a_pod_of_its_own() -> None:
    spec, platform = compiled("tuning.trials=8", "kubeflow.pods={Tuner = {gpus = 1}}")
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) - set(compiled()[0]["root"]["dag"]["tasks"]) == {"tuner"}
    best = {"taskOutputArtifact": {"producerTask": "tuner", "outputArtifactKey": "best_hyperparameters"}}
    assert tasks["trainer"]["inputs"]["artifacts"]["hyperparameters"] == best
    assert "tuner" in tasks["trainer"]["dependentTasks"] and "tuner" in tasks["reporter"]["dependentTasks"]
    assert spec["deploymentSpec"]["executors"]["exec-tuner"]["container"]["resources"]["accelerator"]["count"] == "1"
    custom_config = json.loads(tasks["tuner"]["inputs"]["parameters"]["custom_config"]["runtimeValue"]["constant"])
    assert custom_config["checkpoints"] == "/mnt/im2latex/checkpoints"  # on the volume
    assert json.loads(custom_config["config"])["tuning"]["trials"] == 8
    assert platform["exec-tuner"]["pvcMount"] == platform["exec-trainer"]["pvcMount"]


def test_the_compiled_pipeline_has_no_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = compile_pipeline(load_config(settings=CLUSTER))
    # A checkout at /im2latex is no part of /mnt/im2latex.
    assert not re.search(rf"(?<![\w./-]){re.escape(str(REPOSITORY))}/", text)
    spec = next(yaml.safe_load_all(text))
    schema = spec["root"]["dag"]["tasks"]["import-schema-gen"]["inputs"]["parameters"]["schema_file"]
    assert schema == {"runtimeValue": {"constant": "pipeline/schema/schema.pbtxt"}}


def test_cache_keys_have_the_same_code_digests_as_a_local_run(documents: Any) -> None:
    spec, _ = documents
    local = create_pipeline(load_config(), data="/data", pipeline_root="/root", serving="/serving")
    codes = {
        name: task["inputs"]["parameters"]["code"]["runtimeValue"]["constant"]
        for name, task in spec["root"]["dag"]["tasks"].items()
        if "code" in task["inputs"].get("parameters", {})
    }
    expected = {task_name(c.id): c.exec_properties["code"] for c in local.components if "code" in c.exec_properties}
    assert {name: codes[name] for name in expected} == expected
    for name in set(codes) - set(expected):  # the tasks that run drivers
        assert codes[name] == expected[name.removeprefix("resolve-")]


def test_task_names_are_valid_kubernetes_names(documents: Any) -> None:
    assert task_name("ImportExampleGen") == "import-example-gen"
    spec, _ = documents
    for name, task in spec["root"]["dag"]["tasks"].items():
        assert name == name.lower() and not name.endswith("-driver")  # the backend's own driver of `x` is `x-driver`
        assert task["taskInfo"]["name"] == name
        component = spec["components"][task["componentRef"]["name"]]
        assert component["executorLabel"] in spec["deploymentSpec"]["executors"]


def test_inputs_come_from_tasks_that_are_waited_for(documents: Any) -> None:
    spec, _ = documents
    tasks = spec["root"]["dag"]["tasks"]
    for name, task in tasks.items():
        sources = [artifact["taskOutputArtifact"] for artifact in task.get("inputs", {}).get("artifacts", {}).values()]
        sources += [
            parameter["taskOutputParameter"]
            for parameter in task.get("inputs", {}).get("parameters", {}).values()
            if "taskOutputParameter" in parameter
        ]
        for source in sources:
            producer = spec["components"][tasks[source["producerTask"]]["componentRef"]["name"]]
            kind = "artifacts" if "outputArtifactKey" in source else "parameters"
            key = source.get("outputArtifactKey") or source["outputParameterKey"]
            assert key in producer["outputDefinitions"][kind]
            assert source["producerTask"] in task["dependentTasks"], name
    assert "example-validator" in tasks["transform"]["dependentTasks"]


def test_only_tasks_that_read_external_state_are_never_cached(documents: Any) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]
    uncached = {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"resolve-import-example-gen", "resolve-baseline", "resolve-pusher"}
    for name in uncached:
        follower = tasks[name.removeprefix("resolve-")]
        assert follower["inputs"]["parameters"]["found"]["taskOutputParameter"]["producerTask"] == name


def test_records_on_the_volume_need_no_importer() -> None:
    spec, _ = compiled("kubeflow.data=/mnt/im2latex/data")
    tasks = spec["root"]["dag"]["tasks"]
    assert "import-data" not in tasks and "artifacts" not in tasks["import-example-gen"].get("inputs", {})
    assert tasks["import-example-gen"]["inputs"]["parameters"]["input_base"] == {"componentInputParameter": "data"}


AWS = (
    'kubeflow.secrets={AWS_ACCESS_KEY_ID = "store/id", AWS_SECRET_ACCESS_KEY = "store/key"}',
    'kubeflow.environment={AWS_REGION = "here", AWS_ENDPOINT_URL = "http://minio:9000"}',
)


@pytest.mark.parametrize(
    ("settings", "lists"),
    [
        ((), False),
        (AWS, True),
        ((*AWS, "kubeflow.data=minio://bucket/data"), True),
        ((*AWS, "kubeflow.detect_changes=download"), False),
        ((*AWS, "kubeflow.data=gs://bucket/data"), False),
        (("kubeflow.data=gs://bucket/data", "kubeflow.detect_changes=list"), True),
    ],
)
def test_records_are_listed_instead_of_downloaded_if_the_pods_can(settings: tuple[str, ...], lists: bool) -> None:
    tasks = compiled(*settings)[0]["root"]["dag"]["tasks"]
    resolver, reader = tasks["resolve-import-example-gen"], tasks["import-example-gen"]
    assert ("artifacts" not in resolver["inputs"]) == lists
    assert ("import-data" not in resolver.get("dependentTasks", [])) == lists
    assert reader["inputs"]["artifacts"]["data"]["taskOutputArtifact"]["producerTask"] == "import-data"
    assert resolver["inputs"]["parameters"]["input_base"] == {"componentInputParameter": "data"}


@pytest.mark.parametrize(
    ("root", "settings", "refused"),
    [
        ("s3://bucket/runs", (), False),
        ("s3://another/runs", (), True),
        ("minio://bucket/runs", (), True),
        ("s3://another/runs", AWS, False),
        ("s3://another/runs", ('kubeflow.environment={AWS_REGION = "here"}',), False),
        ("s3://another/runs", ("kubeflow.data=gs://bucket/data",), False),
        ("s3://another/runs", ("kubeflow.data=/mnt/im2latex/data",), False),
    ],
)
def test_records_that_the_launcher_cannot_read_are_refused(root: str, settings: tuple[str, ...], refused: bool) -> None:
    cluster_settings = (f"kubeflow.pipeline_root={root}", *settings)
    if refused:
        with pytest.raises(UserError, match="is in another bucket than the pipeline root .*AWS_ACCESS_KEY_ID"):
            compiled(*cluster_settings)
    else:
        assert compiled(*cluster_settings)[0]["defaultPipelineRoot"] == root


def test_every_container_has_the_environment_variables() -> None:
    spec, _ = compiled('kubeflow.environment={AWS_REGION = "here"}')
    for executor in spec["deploymentSpec"]["executors"].values():
        if "container" in executor:
            assert {"name": "AWS_REGION", "value": "here"} in executor["container"]["env"]


@pytest.mark.parametrize(
    ("pod", "longest"),
    [
        (Pod(retries=2), 30 * 24 * 3600),
        # Three attempts, each with an hour to get a node, and pauses of 30 and 60 seconds.
        (Pod(retries=2, timeout=86400), 3 * (86400 + 3600) + 90),
        (Pod(retries=1, timeout=60), 2 * (60 + 3600) + 30),
    ],
)
def test_the_retry_limit_covers_the_timeouts_of_all_attempts(pod: Pod, longest: int) -> None:
    assert runner._retry_policy(pod)["backoffMaxDuration"] == f"{longest}s"


def test_pods_have_the_configured_settings() -> None:
    pods = """kubeflow.pods={
        all = {retries = 2},
        Trainer = {cpu = 8, memory = 32, gpus = 2, gpu_type = "amd.com/gpu", node_selector = {pool = "gpu"}}}"""
    spec, platform = compiled(" ".join(pods.split()), 'kubeflow.secrets={TOKEN = "bucket/key"}')
    trainer = spec["deploymentSpec"]["executors"]["exec-trainer"]["container"]["resources"]
    assert (trainer["cpuLimit"], trainer["memoryLimit"]) == (8, 32)
    assert trainer["accelerator"] == {"type": "amd.com/gpu", "count": "2"}
    assert platform["exec-trainer"]["nodeSelector"] == {"labels": {"pool": "gpu"}}
    assert spec["root"]["dag"]["tasks"]["trainer"]["retryPolicy"]["maxRetryCount"] == 2
    transform = platform["exec-transform"]
    assert "nodeSelector" not in transform
    assert transform["pvcMount"] == [{"constant": "models", "mountPath": "/mnt/im2latex"}]
    assert transform["secretAsEnv"] == [{"secretName": "bucket", "keyToEnv": [{"secretKey": "key", "envVar": "TOKEN"}]}]


GPU = {"key": "gpu", "operator": "Exists"}


@pytest.mark.parametrize(
    ("pods", "field", "trainer", "transform"),
    [
        ('Trainer = {tolerations = [{key = "gpu", operator = "Exists"}]}', "tolerations", [GPU], None),
        ("all = {timeout = 3600}, Trainer = {timeout = 86400}", "activeDeadlineSeconds", "86400", "3600"),
    ],
)
def test_settings_that_the_installed_kfp_lacks_are_refused(pods: str, field: str, trainer: Any, transform: Any) -> None:
    setting = f"kubeflow.pods={{{pods}}}"
    if field not in kubernetes_executor_config_pb2.KubernetesExecutorConfig.DESCRIPTOR.fields_by_camelcase_name:
        with pytest.raises(
            UserError, match=f"the installed kfp does not support this setting .*{field}.*; compile with Python 3.11"
        ):
            compiled(setting)
        return
    _, platform = compiled(setting)
    assert platform["exec-trainer"][field] == trainer
    assert platform["exec-transform"].get(field) == transform


@pytest.mark.parametrize(
    ("knob", "field"), [("timeout", "active_deadline_seconds"), ("keep", "resource_ttl_on_completion")]
)
def test_settings_of_a_whole_run_are_compiled_if_kfp_supports_them(knob: str, field: str) -> None:
    setting = f"kubeflow.{knob}=86400"
    whole = pipeline_spec_pb2.SinglePlatformSpec.DESCRIPTOR.fields_by_name.get("pipelineConfig")
    if whole is None or field not in whole.message_type.fields_by_name:
        with pytest.raises(
            UserError, match="the installed kfp does not support this setting .*; compile with Python 3.12"
        ):
            compiled(setting)
        return
    _, platform = yaml.safe_load_all(compile_pipeline(load_config(settings=[*CLUSTER, setting])))
    message = json_format.ParseDict(platform["platforms"]["kubernetes"], pipeline_spec_pb2.SinglePlatformSpec())
    assert getattr(message.pipelineConfig, field) == 86400


@dsl.container_component
def trainer():  # type: ignore[no-untyped-def]
    return dsl.ContainerSpec(image="im2latex:1.0", command=["train"])


def by_kfp(folder: Path, settings: dict[str, int], configure: Callable[[dsl.PipelineTask], object]) -> Any:
    """Compiles one task with kfp's own compiler. Returns the two documents."""

    @dsl.pipeline(name="one", pipeline_config=dsl.PipelineConfig(**settings))
    def one():  # type: ignore[no-untyped-def]
        configure(trainer())

    path = folder / "one.yaml"
    compiler.Compiler().compile(one, str(path))
    return list(yaml.safe_load_all(path.read_text()))


def assert_within(ours: Any, theirs: Any) -> None:
    """Asserts that `theirs` says all that `ours` says; newer versions of kfp write some values under two names."""
    if isinstance(ours, dict):
        assert ours.keys() <= theirs.keys()
        for key in ours:
            assert_within(ours[key], theirs[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            assert_within(one, other)
    else:
        assert ours == theirs


@pytest.mark.skipif(not hasattr(kubernetes, "set_timeout"), reason="kfp-kubernetes 1.0 writes none of most of them")
def test_settings_of_a_pod_are_those_that_kfps_own_compiler_writes(tmp_path: Path) -> None:
    spec, pods = compiled(
        "metadata.connection=mysql://writer@database/lineage",
        'kubeflow.secrets={TOKEN = "bucket/key"}',
        'kubeflow.pods={Trainer = {cpu = 8, memory = 32, gpus = 2, gpu_type = "amd.com/gpu", timeout = 86400, '
        'node_selector = {pool = "gpu"}, tolerations = [{key = "gpu", operator = "Exists"}]}}',
    )

    def configure(task: dsl.PipelineTask) -> None:
        kubernetes.mount_pvc(task, pvc_name="models", mount_path="/mnt/im2latex")
        kubernetes.use_secret_as_env(task, secret_name="bucket", secret_key_to_env={"key": "TOKEN"})
        kubernetes.use_field_path_as_env(task, env_name="IM2LATEX_RUN", field_path=runner.RUN_LABEL)
        kubernetes.add_node_selector(task, label_key="pool", label_value="gpu")
        kubernetes.add_toleration(task, key="gpu", operator="Exists")
        kubernetes.set_timeout(task, 86400)
        task.set_cpu_limit("8").set_memory_limit("32G")
        task.set_accelerator_type("amd.com/gpu").set_accelerator_limit(2)

    theirs, platform = by_kfp(tmp_path, {}, configure)
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-trainer"]
    assert_within(pods["exec-trainer"], pod)
    resources = [document["deploymentSpec"]["executors"]["exec-trainer"]["container"]["resources"]
                 for document in (spec, theirs)]  # fmt: skip
    assert set(resources[0]) == {"cpuLimit", "memoryLimit", "accelerator"}
    assert_within(*resources)


@pytest.mark.skipif(
    not hasattr(dsl, "PipelineConfig")
    or "active_deadline_seconds" not in inspect.signature(dsl.PipelineConfig).parameters,
    reason="kfp before 2.17 writes no such settings",
)
def test_settings_of_a_whole_run_are_those_that_kfps_own_compiler_writes(tmp_path: Path) -> None:
    settings = ["kubeflow.timeout=86400", "kubeflow.keep=3600"]
    _, ours = yaml.safe_load_all(compile_pipeline(load_config(settings=[*CLUSTER, *settings])))
    limits = {"active_deadline_seconds": 86400, "ttl_seconds_after_finished": 3600}
    _, theirs = by_kfp(tmp_path, limits, lambda task: kubernetes.set_timeout(task, 1))
    assert ours["platforms"]["kubernetes"]["pipelineConfig"] == theirs["platforms"]["kubernetes"]["pipelineConfig"]


def test_a_field_that_the_installed_kfp_lacks_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_platform", lambda config, pod: {"notYetThought": 1})
    with pytest.raises(
        UserError, match="^the installed kfp does not support this setting .*notYetThought.*; compile with Python"
    ) as no:
        compiled()
    assert "\n" not in str(no.value)


@pytest.mark.skipif(
    not hasattr(kubernetes_executor_config_pb2, "FieldPathAsEnv"), reason="kfp-kubernetes 1.0 cannot say it"
)
def test_with_a_database_every_task_records_itself_and_the_last_one_what_was_cached() -> None:
    address = "mysql://writer@database/lineage"
    spec, pods = compiled(f"metadata.connection={address}")
    tasks = spec["root"]["dag"]["tasks"]
    for name, executor in spec["deploymentSpec"]["executors"].items():
        if "container" not in executor:
            continue
        arguments = executor["container"]["args"]
        assert arguments[arguments.index("--metadata") + 1] == address
        assert pods[name]["fieldPathAsEnv"] == [
            {"name": "IM2LATEX_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        # The conditions of the run would keep other tasks from the cache.
        assert ("--run" in arguments) == (name == "exec-resolve-import-example-gen")
    last = tasks["record-lineage"]
    assert "enableCache" not in last["cachingOptions"]
    # It runs after all others, and its inputs, which are downloaded, are small.
    before = set(last["dependentTasks"])
    while further := {name for task in before for name in tasks[task].get("dependentTasks", ())} - before:
        before |= further
    assert before == set(tasks) - {"record-lineage"}
    assert set(last["inputs"]["artifacts"]) == {"report"}


def test_without_a_database_nothing_is_recorded(documents: Any) -> None:
    spec, pods = documents
    assert "record-lineage" not in spec["root"]["dag"]["tasks"]
    assert "--metadata" not in str(spec) and "fieldPathAsEnv" not in str(pods)


def test_a_password_in_the_configuration_is_refused() -> None:
    environment = 'kubeflow.environment={IM2LATEX_METADATA_PASSWORD = "secret"}'
    with pytest.raises(UserError, match="kubeflow.secrets") as refused:
        compiled("metadata.connection=mysql://writer@database/lineage", environment)
    assert '"secret"' not in str(refused.value)


def test_both_documents_match_their_schemas(documents: Any) -> None:
    spec, platform = documents
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    for executor in platform.values():
        json_format.ParseDict(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_components_on_beam_have_beam_arguments() -> None:
    spec, _ = compiled("beam.arguments=['--direct_num_workers=3']")
    executors = spec["deploymentSpec"]["executors"]
    assert executors["exec-transform"]["container"]["args"][-1] == "--direct_num_workers=3"
    assert executors["exec-trainer"]["container"]["args"][-1] == "{{$}}"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (CLUSTER[1:], "kubeflow.image is not set"),
        (CLUSTER[:1], "kubeflow.volume is not set"),
        (CLUSTER[:2], "kubeflow.data is not set"),
        ((*CLUSTER, "kubeflow.image=localhost:5000/im2latex"), "has no version"),
        ((*CLUSTER, "kubeflow.data=/elsewhere"), "is not on the volume"),
        (
            (*CLUSTER, "kubeflow.data=s3://bucket"),
            "'s3://bucket' is a bucket; give a folder in it, such as s3://bucket/",
        ),
        ((*CLUSTER, "kubeflow.data=gs://bucket/"), "is a bucket"),
        ((*CLUSTER, AWS[0]), "the pods have AWS_ACCESS_KEY_ID but no AWS_REGION; set it in kubeflow.environment"),
        (
            (*CLUSTER, 'kubeflow.secrets={AWS_SECRET_ACCESS_KEY = "a/b"}', AWS[1]),
            "the pods have AWS_SECRET_ACCESS_KEY but no AWS_ACCESS_KEY_ID; set it in kubeflow.secrets",
        ),
    ],
)
def test_a_missing_knob_is_one_sentence(settings: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compile_pipeline(load_config(settings=settings))
