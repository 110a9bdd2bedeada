"""The sections of the configuration that are not defined in trainer_module; each field is a knob."""

from __future__ import annotations

import itertools
import re
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from components.evaluator.gate import parse_all
from data.pictures.synthetic import DEFAULT_DPI, DEFAULT_LEVEL, DEFAULT_MAX_TOKENS, LEVELS, MIN_TOKENS
from im2latex.statistics import OF_EXAMPLES
from pipeline.lineage.address import parse
from trainer_module.config import STRICT

SYNTHETIC = "synthetic"
# The components of every pipeline, in the order in which they run.
COMPONENTS = (
    "ImportExampleGen",
    "ImportSchemaGen",
    "StatisticsGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Baseline",
    "Evaluator",
    "ServingCheck",
    "Pusher",
    "Reporter",
)
# The component that only a pipeline with tuning has, and all components then.
TUNER = "Tuner"
WITH_TUNER = (*COMPONENTS[:5], TUNER, *COMPONENTS[5:])
# Name for all components.
EVERY = "all"
# The components that run on Beam.
BEAM_COMPONENTS = ("ImportExampleGen", "StatisticsGen", "Transform", "Evaluator")
_DIVERGENCE = "Jensen-Shannon divergence, 0 to 1"
# Knobs of BeamConfig that are addresses, and the regular expression for what precedes the host.
_ADDRESSES = {"flink_master": "(?:https?://)?", "spark_master": "spark://", "job_server": "", "worker_pool": ""}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the examples come from."""

    source: str = Field(
        default=SYNTHETIC, min_length=1, description="synthetic, or a folder with train/, eval/ and test/"
    )
    train: int = Field(default=10000, ge=1, description="synthetic formulas to learn from")
    eval: int = Field(default=300, ge=1, description="synthetic formulas to validate the training on")
    test: int = Field(default=300, ge=1, description="synthetic formulas to evaluate the model on")
    level: str = Field(default=DEFAULT_LEVEL, description=f"how rich the synthetic formulas are: {', '.join(LEVELS)}")
    seed: int = Field(default=1, ge=0, description="seed of the synthetic formulas")
    dpi: int = Field(default=DEFAULT_DPI, ge=40, le=600, description="resolution of synthetic formulas, dots per inch")
    spelling: Literal["normal", "im2markup"] = Field(
        default="normal",
        description="spelling of formulas: normal (equal for all that look the same) or im2markup (as in the source)",
    )
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=MIN_TOKENS, description="longest synthetic formula, tokens")

    @field_validator("level")
    @classmethod
    def _level_exists(cls, level: str) -> str:
        if level not in LEVELS:
            raise ValueError("there is no such level")
        return level


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DriftConfig:
    """Largest distance of new training examples from those of the serving model."""

    action: Literal["warn", "stop", "off"] = Field(
        default="warn", description="if a distance is larger: warn, or stop the run; off: do not compare"
    )
    width: float = Field(default=0.1, gt=0, le=1, description=f"largest distance of pictures' width, {_DIVERGENCE}")
    height: float = Field(default=0.1, gt=0, le=1, description=f"largest distance of pictures' height, {_DIVERGENCE}")
    ink: float = Field(default=0.1, gt=0, le=1, description=f"largest distance of their share of ink, {_DIVERGENCE}")
    length: float = Field(default=0.1, gt=0, le=1, description=f"largest distance of formulas' length, {_DIVERGENCE}")
    unknown: float = Field(
        default=0.01, gt=0, le=1, description="largest difference of the share of tokens outside its vocabulary"
    )

    @property
    def thresholds(self) -> dict[str, float]:
        """The largest distance by feature of `im2latex.statistics`."""
        return {name: getattr(self, name) for name in OF_EXAMPLES}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationConfig:
    """The gate: the rules that a model must pass on unseen formulas to be pushed."""

    split: Literal["train", "eval", "test"] = Field(
        default="test", description="examples that the model is evaluated on"
    )
    gate: tuple[str, ...] = Field(
        default=("bleu >= 0.7", "bleu >= baseline - 0.01"),
        description='rules that a model must pass to be pushed, such as "bleu >= baseline - 0.02 where length=1-9"',
    )
    robustness: int = Field(
        default=0, ge=0, description="examples that are also read resized, blurred, as photos and so on; 0: none"
    )

    @field_validator("gate")
    @classmethod
    def _rules_are_rules(cls, gate: tuple[str, ...]) -> tuple[str, ...]:
        parse_all(gate)
        return gate

    @model_validator(mode="after")
    def _rules_on_pictures_have_pictures(self) -> EvaluationConfig:
        if not self.robustness and (rule := next((r for r in parse_all(self.gate) if r.of_picture), None)):
            raise ValueError(f"the rule {rule.text!r} needs evaluation.robustness, such as 200 examples")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServingConfig:
    """The check before a push, in which a fresh process predicts images with the model; and the versions to keep."""

    # The check also reads all of them in one batch, which takes memory; 32 are enough for a median.
    check_images: int = Field(default=32, ge=1, le=256, description="real images that the fresh process predicts")
    # Three times the median of the largest preset, with its largest images, on two busy cores.
    max_seconds: float = Field(default=2.0, gt=0, description="longest median time per image in that process, seconds")
    keep: int = Field(
        default=5, ge=0, description="pushed versions to keep, and withdrawn ones, at least 2 of each; 0: all"
    )

    @field_validator("keep")
    @classmethod
    def _keep_leaves_something_to_go_back_to(cls, keep: int) -> int:
        if keep == 1:
            raise ValueError("1 leaves no version to roll back to: use 2 or more, or 0 for all")
        return keep


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BeamConfig:
    """Where the components on Beam run: ImportExampleGen, StatisticsGen, Transform and Evaluator."""

    runner: Literal["local", "multi_processing", "flink", "spark", "dataflow"] = Field(
        default="local",
        description="local (this process), multi_processing (several local processes), flink, spark or dataflow",
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="processes, parallel tasks on Flink, or maximum machines on Dataflow; 0: the runner's default",
    )
    flink_master: str = Field(default="", description="host:port of Flink's web page; empty: start a local Flink")
    flink_version: str = Field(
        default="", description="Flink's version, such as 1.20; empty: the newest that Beam supports"
    )
    spark_master: str = Field(default="", description="spark://host:port; empty: start a local Spark")
    job_server: str = Field(default="", description="host:port of a running Beam job server; empty: start one")
    job_server_jar: str = Field(
        default="", description="file or URL of Beam's job server for Flink or Spark; empty: Beam downloads it"
    )
    worker_image: str = Field(
        default="", description="container image with this project for workers of Flink, Spark or Dataflow"
    )
    worker_pool: str = Field(
        default="", description="host:port of Beam's worker pool, from the view of a Flink or Spark worker"
    )
    arguments: tuple[str, ...] = Field(default=(), description="additional arguments of the Beam runner")
    by_component: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description='additional arguments of single components, such as {Transform = ["--parallelism=8"]}',
    )

    @model_validator(mode="after")
    def _arguments_are_options(self) -> BeamConfig:
        for component in self.by_component:
            if component not in BEAM_COMPONENTS:
                raise ValueError(
                    f"by_component contains {component!r}; the components on Beam are {', '.join(BEAM_COMPONENTS)}"
                )
        for argument in (*self.arguments, *itertools.chain(*self.by_component.values())):
            if not argument.startswith("--"):
                raise ValueError(f"arguments contains {argument!r}, which does not start with two dashes")
            if argument.partition("=")[0] == "--runner":
                raise ValueError(f"arguments contains {argument!r}, which runner sets")
        return self

    @model_validator(mode="after")
    def _addresses_are_addresses(self) -> BeamConfig:
        for name, scheme in _ADDRESSES.items():
            value = getattr(self, name)
            if value and not re.fullmatch(rf"{scheme}[\w.-]+:\d+/?", value):
                form = "spark://host:port" if name == "spark_master" else "host:port"
                raise ValueError(f"{name} = {value!r} is not of the form {form}")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> BeamConfig:
        if self.runner == "local" and self.workers > 1:
            raise ValueError(
                f"workers = {self.workers}, but the runner local has one process: use the runner multi_processing"
            )
        if self.runner == "spark" and self.workers:
            raise ValueError(f"workers = {self.workers}, but Spark uses the cores of its own workers: set it to 0")
        if self.job_server and self.job_server_jar:
            raise ValueError(
                "job_server (a running one) and job_server_jar (one to start) exclude each other: set one of them"
            )
        if self.worker_image and self.worker_pool:
            raise ValueError("worker_image and worker_pool exclude each other: set one of them")
        if self.runner == "dataflow":
            self._dataflow_has_what_it_needs()
        if self.runner in ("flink", "spark") and not (self.worker_image or self.worker_pool):
            for address in (getattr(self, f"{self.runner}_master"), self.job_server):
                if address and not _is_this_machine(address):
                    raise ValueError(f"{address} has its workers on other machines: set worker_image or worker_pool")
        return self

    def _dataflow_has_what_it_needs(self) -> None:
        if not self.worker_image:
            raise ValueError("Dataflow's own image lacks TFX: set worker_image")
        names = {argument.partition("=")[0] for argument in self.arguments}
        missing = [name for name in ("--project", "--region", "--temp_location") if name not in names]
        if missing:
            raise ValueError(f"Dataflow needs {', '.join(missing)} in arguments")


def _is_this_machine(address: str) -> bool:
    host = address.rpartition("//")[2].partition(":")[0]
    return host == "localhost" or host.startswith("127.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pod:
    """Resources and limits of a component's pod; 0 or empty leaves the choice to the cluster."""

    cpu: float = Field(default=0, ge=0, description="cores")
    memory: float = Field(default=0, ge=0, description="memory, GB (10^9 bytes)")
    gpus: int = Field(default=0, ge=0, description="GPUs")
    gpu_type: str = Field(default="nvidia.com/gpu", description="resource name of the GPUs")
    retries: int = Field(default=0, ge=0, le=10, description="retries of a failed task")
    timeout: int = Field(default=0, ge=0, description="maximum time of an attempt, seconds")
    node_selector: dict[str, str] = Field(default_factory=dict, description="required node labels")
    tolerations: tuple[dict[Literal["key", "operator", "value", "effect"], str], ...] = Field(
        default=(), description="tolerations, as Kubernetes writes them"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KubeflowConfig:
    """The cluster for `im2latex kubeflow`."""

    image: str = Field(default="", description="container image, by tag or digest")
    data: str = Field(default="", description="folder of TFRecords: on the volume, or gs://, s3://, minio://")
    pipeline_root: str = Field(
        default="", description="folder for artifacts: gs://, s3:// or minio://; empty: the cluster's default"
    )
    volume: str = Field(default="", description="persistent volume claim that all pods share")
    mount: str = Field(default="/mnt/im2latex", pattern=r"^/[^:]*[^/:]$", description="mount path of the volume")
    secrets: dict[str, str] = Field(
        default_factory=dict, description='environment variables from secrets, such as {HF_TOKEN = "secret/key"}'
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description='environment variables, such as {AWS_REGION = "eu-central-1"}'
    )
    detect_changes: Literal["auto", "list", "download"] = Field(
        default="auto",
        description="how a run finds changed records in a bucket: list it with the pods' own credentials, download "
        "them, or auto: list if secrets or environment hold AWS credentials",
    )
    timeout: int = Field(default=0, ge=0, lt=2**31, description="maximum time of a run, seconds; 0: no limit")
    keep: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="seconds until the pods of a finished run are deleted; 0: the cluster's default",
    )
    pods: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="resources by component, such as Trainer, or for all: cpu, memory, gpus, retries, timeout, ...",
    )

    @field_validator("secrets")
    @classmethod
    def _secrets_name_a_key(cls, secrets: dict[str, str]) -> dict[str, str]:
        for variable, secret in secrets.items():
            if secret.count("/") != 1 or not all(secret.split("/")):
                raise ValueError(
                    f"the variable {variable} takes secret/key, the secret's name and the key in it, not {secret!r}"
                )
        return secrets

    @field_validator("pods")
    @classmethod
    def _pods_are_pods(cls, pods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for component, settings in pods.items():
            if component not in (*WITH_TUNER, EVERY):
                raise ValueError(f"there is no component {component!r}; there are {EVERY}, {', '.join(WITH_TUNER)}")
            try:
                TypeAdapter(Pod).validate_python(settings)
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(f"the pod of {component}, {first['loc'][0]}: {first['msg']}") from None
        return pods

    def pod(self, component: str) -> Pod:
        """Returns the settings of a component's pod: its own settings override those for all components."""
        return TypeAdapter(Pod).validate_python(self.pods.get(EVERY, {}) | self.pods.get(component, {}))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetadataConfig:
    """The database of ML Metadata."""

    connection: str = Field(default="", description="mysql://user@host:port/database; empty: a file in the workspace")

    @field_validator("connection")
    @classmethod
    def _connection_is_an_address(cls, connection: str) -> str:
        if connection:
            parse(connection)
        return connection
