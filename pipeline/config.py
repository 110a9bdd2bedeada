"""Everything that can be set, in one frozen object: presets, TOML files and `--set section.knob=value`.

Reading is strict: a knob that does not exist, or a value that is not allowed, is refused with
one sentence that names the knob, where the value came from, and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from components.evaluator.gate import parse_all
from data import toml
from data.errors import UserError
from data.synthetic import DEFAULT_DPI, DEFAULT_LEVEL, DEFAULT_MAX_TOKENS, LEVELS, MIN_TOKENS
from pipeline.lineage.address import parse
from trainer_module import reader
from trainer_module.config import STRICT
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.config.vocabulary import VocabularyConfig

SYNTHETIC = "synthetic"
# The pipeline's components, in the order in which they run.
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
# In place of a component: all of them.
EVERY = "all"
# Those that hand their work to Beam.
BEAM_COMPONENTS = ("ImportExampleGen", "StatisticsGen", "Transform", "Evaluator")
# Knobs of BeamConfig that are addresses, and what may or must stand before the host.
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
        default="normal", description="of formulas: normal, one for each look; im2markup, as they come"
    )
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=MIN_TOKENS, description="longest synthetic formula, tokens")

    @field_validator("level")
    @classmethod
    def _level_exists(cls, level: str) -> str:
        if level not in LEVELS:
            raise ValueError("there is no such level")
        return level


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationConfig:
    """The gate: what a model must reach on unseen formulas to be served."""

    split: Literal["train", "eval", "test"] = Field(
        default="test", description="examples that the model is evaluated on"
    )
    gate: tuple[str, ...] = Field(
        default=("bleu >= 0.7", "bleu >= baseline - 0.01"),
        description='rules a model must keep to be served, such as "bleu >= baseline - 0.02 where length=1-9"',
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
    """The check before the push, for which a fresh process reads images with the model; and what stays after it."""

    # All of them go through in one batch too, which costs memory; 32 are enough for a median.
    check_images: int = Field(default=32, ge=1, le=256, description="real images that the fresh process reads")
    # Three times what the largest preset needed for its largest images on two busy cores.
    max_seconds: float = Field(default=2.0, gt=0, description="longest median time of one image there, seconds")
    keep: int = Field(
        default=5, ge=0, description="pushed versions that stay, and as many withdrawn ones, at least 2; 0: all of them"
    )

    @field_validator("keep")
    @classmethod
    def _keep_leaves_something_to_go_back_to(cls, keep: int) -> int:
        if keep == 1:
            raise ValueError("1 leaves nothing to go back to: take 2 or more, or 0 for all")
        return keep


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BeamConfig:
    """Where the data-parallel steps run: ImportExampleGen, StatisticsGen, Transform and Evaluator."""

    runner: Literal["local", "multi_processing", "flink", "spark", "dataflow"] = Field(
        default="local", description="in this process, in several here, or on Flink, Spark or Dataflow"
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="processes, parallel tasks of Flink, most machines of Dataflow; 0: as many as the runner takes",
    )
    flink_master: str = Field(default="", description="host:port of Flink's page; empty: a Flink of its own, here")
    flink_version: str = Field(default="", description="Flink's version, such as 1.20; empty: the newest Beam knows")
    spark_master: str = Field(default="", description="spark://host:port; empty: a Spark of its own, here")
    job_server: str = Field(default="", description="host:port of a running Beam job server; empty: one is started")
    job_server_jar: str = Field(
        default="", description="Beam's job server for Flink or Spark, a file or URL; empty: Beam fetches it"
    )
    worker_image: str = Field(default="", description="image with this project that Flink, Spark or Dataflow starts")
    worker_pool: str = Field(
        default="", description="host:port, as a Flink or Spark worker sees it, of Beam's worker pool beside it"
    )
    arguments: tuple[str, ...] = Field(default=(), description="further arguments of the Beam runner")
    by_component: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description='still further ones of single components, such as {Transform = ["--parallelism=8"]}',
    )

    @model_validator(mode="after")
    def _arguments_are_options(self) -> BeamConfig:
        for component in self.by_component:
            if component not in BEAM_COMPONENTS:
                raise ValueError(f"by_component holds {component!r}; those on Beam are {', '.join(BEAM_COMPONENTS)}")
        for argument in (*self.arguments, *itertools.chain(*self.by_component.values())):
            if not argument.startswith("--"):
                raise ValueError(f"arguments holds {argument!r}, which does not start with two dashes")
            if argument.partition("=")[0] == "--runner":
                raise ValueError(f"arguments holds {argument!r}, which is for runner to say")
        return self

    @model_validator(mode="after")
    def _addresses_are_addresses(self) -> BeamConfig:
        for name, scheme in _ADDRESSES.items():
            value = getattr(self, name)
            if value and not re.fullmatch(rf"{scheme}[\w.-]+:\d+/?", value):
                wanted = "spark://host:port" if name == "spark_master" else "host:port"
                raise ValueError(f"{name} = {value!r} is not of the form {wanted}")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> BeamConfig:
        if self.runner == "local" and self.workers > 1:
            raise ValueError(f"workers = {self.workers}, and the runner local is one process: take multi_processing")
        if self.runner == "spark" and self.workers:
            raise ValueError(f"workers = {self.workers}, and Spark goes by the cores of its own workers: set it to 0")
        if self.job_server and self.job_server_jar:
            raise ValueError("job_server is one that runs, job_server_jar one to be started: give one of them")
        if self.worker_image and self.worker_pool:
            raise ValueError("worker_image and worker_pool both say where the workers come from: give one of them")
        if self.runner == "dataflow":
            self._dataflow_has_what_it_needs()
        if self.runner in ("flink", "spark") and not (self.worker_image or self.worker_pool):
            for address in (getattr(self, f"{self.runner}_master"), self.job_server):
                if address and not _is_this_machine(address):
                    raise ValueError(f"{address} has its workers on other machines: give worker_image or worker_pool")
        return self

    def _dataflow_has_what_it_needs(self) -> None:
        if not self.worker_image:
            raise ValueError("Dataflow's own image lacks TFX: give worker_image")
        given = {argument.partition("=")[0] for argument in self.arguments}
        missing = [name for name in ("--project", "--region", "--temp_location") if name not in given]
        if missing:
            raise ValueError(f"Dataflow needs {', '.join(missing)} in arguments")


def _is_this_machine(address: str) -> bool:
    host = address.rpartition("//")[2].partition(":")[0]
    return host == "localhost" or host.startswith("127.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pod:
    """What a component asks of the cluster; what is 0 or empty is left to the cluster."""

    cpu: float = Field(default=0, ge=0, description="cores")
    memory: float = Field(default=0, ge=0, description="memory, GB (10^9 bytes)")
    gpus: int = Field(default=0, ge=0, description="GPUs")
    gpu_type: str = Field(default="nvidia.com/gpu", description="what the cluster calls its GPUs")
    retries: int = Field(default=0, ge=0, le=100, description="further attempts of a failed task")
    timeout: int = Field(default=0, ge=0, description="longest time of an attempt, seconds")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that a node must have")
    tolerations: tuple[dict[Literal["key", "operator", "value", "effect"], str], ...] = Field(
        default=(), description="taints that are borne, as Kubernetes writes them"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KubeflowConfig:
    """The cluster that `im2latex kubeflow` compiles for."""

    image: str = Field(default="", description="image of every container, by tag or, surer, by digest")
    data: str = Field(default="", description="TFRecords: a folder on the volume, or gs://, s3://, minio://")
    volume: str = Field(default="", description="claim of the volume that all pods share")
    mount: str = Field(default="/mnt/im2latex", pattern=r"^/[^:]*[^/:]$", description="where the pods find the volume")
    secrets: dict[str, str] = Field(
        default_factory=dict, description='environment variables from secrets, such as {HF_TOKEN = "secret/key"}'
    )
    pods: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="cpu, memory, gpus, retries, timeout, ... of a component, such as Trainer, or of all",
    )

    @field_validator("secrets")
    @classmethod
    def _secrets_name_a_key(cls, secrets: dict[str, str]) -> dict[str, str]:
        for variable, place in secrets.items():
            if place.count("/") != 1 or not all(place.split("/")):
                raise ValueError(
                    f"the variable {variable} takes secret/key, the secret's name and the key in it, not {place!r}"
                )
        return secrets

    @field_validator("pods")
    @classmethod
    def _pods_are_pods(cls, pods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for component, asked in pods.items():
            if component not in (*COMPONENTS, EVERY):
                raise ValueError(f"there is no component {component!r}; there are {EVERY}, {', '.join(COMPONENTS)}")
            try:
                TypeAdapter(Pod).validate_python(asked)
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(f"the pod of {component}, {first['loc'][0]}: {first['msg']}") from None
        return pods

    def pod(self, component: str) -> Pod:
        """What a component asks for: its own wishes over those of all."""
        return TypeAdapter(Pod).validate_python(self.pods.get(EVERY, {}) | self.pods.get(component, {}))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetadataConfig:
    """Where ML Metadata keeps what ran."""

    connection: str = Field(default="", description="mysql://user@host:port/database; empty: a file in the workspace")

    @field_validator("connection")
    @classmethod
    def _connection_is_an_address(cls, connection: str) -> str:
        if connection:
            parse(connection)
        return connection


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """One run of the pipeline, completely described."""

    name: str = Field(
        default="im2latex", pattern=r"^[a-z][a-z0-9-]*$", description="name of the pipeline and its model"
    )
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    beam: BeamConfig = BeamConfig()
    metadata: MetadataConfig = MetadataConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()

    def section(self, *names: str) -> str:
        """The named sections as one JSON object, as components take them."""
        return json.dumps({name: dataclasses.asdict(getattr(self, name)) for name in names}, sort_keys=True)


# IM2TEX (Deng et al. 2017, section 5): images of at most 500 x 160 pixels, formulas of at most 150 tokens, SGD at 0.1
# that is halved when the validation perplexity stalls, 12 epochs, batches of 20.
_PAPER: dict[str, Any] = {
    "image": {"max_height": 160, "max_width": 504},
    "model": {"normalisation": "before_relu", "hidden_recurrence": True, "row_embedding": True},
}

# What a preset changes in the defaults. The defaults are the seed's model and training.
PRESETS: dict[str, dict[str, Any]] = {
    # Trained, gated and pushed within minutes on two CPU cores.
    "quickstart": {
        "data": {"train": 11_000, "eval": 300, "test": 300, "max_tokens": 16, "dpi": 96},
        "image": {"border": 2},
        "model": {
            "filters": (16, 32, 64, 64, 128, 128),
            "decoder_units": 128,
            "embedding_units": 32,
            "hidden_recurrence": True,
        },
        "training": {
            "epochs": 11,
            "batch_size": 32,
            "max_tokens": 60,
            "optimizer": "adam",
            "learning_rate": 2.5e-3,
            "warmup_steps": 100,
            "schedule": "cosine",
            "short_first": True,
            "operation_threads": 1,
        },
        "evaluation": {"gate": ("bleu >= 0.75", "bleu >= baseline - 0.01")},
    },
    # Real formulas: a quarter of the seed's width in the convolutions, half of it in the decoder.
    "small": {
        "image": {"max_height": 96, "max_width": 400},
        "model": {
            "filters": (16, 32, 64, 64, 128, 256),
            "decoder_units": 256,
            "embedding_units": 64,
            "hidden_recurrence": True,
        },
        "training": {
            "epochs": 10,
            "batch_size": 32,
            "optimizer": "adam",
            "learning_rate": 2e-3,
            "warmup_steps": 200,
            "schedule": "cosine",
            "short_first": True,
        },
        "evaluation": {"gate": ("bleu >= 0.5", "bleu >= baseline - 0.01"), "robustness": 200},
    },
    # The model that comes with im2latex: real formulas, in many looks and sizes.
    "reader": {
        "image": {"max_height": 192, "max_width": 768, "glyph_size": 16},
        "model": {
            "filters": (32, 64, 128, 128, 256, 256),
            "decoder_units": 256,
            "embedding_units": 64,
            "hidden_recurrence": True,
            "position_encoding": True,
        },
        "training": {
            "epochs": 12,
            "batch_size": 64,
            "optimizer": "adam",
            "learning_rate": 1.2e-3,
            "warmup_steps": 300,
            "schedule": "cosine",
            "augmentation": 0.5,
            "precision": "auto",
        },
        "evaluation": {"gate": ("bleu >= 0.8", "bleu >= baseline - 0.01"), "robustness": 200},
        "serving": {"max_seconds": 0.5},
    },
    # Exactly the seed's model.
    "seed": {},
    # The paper's IM2TEX, and its coarse-to-fine model with the coarse level that scores best there.
    "paper": _PAPER,
    "paper-coarse-to-fine": _PAPER
    | {"model": _PAPER["model"] | {"attention": "hierarchical"}, "training": {"batch_size": 6}},
}
DEFAULT_PRESET = "quickstart"


def load_config(
    preset: str | None = None,
    path: Path | str | None = None,
    settings: Sequence[str] = (),
) -> Config:
    """The configuration from a preset, over it a TOML file, over that `section.knob=value` settings.

    Args:
        preset: a name in `PRESETS`; None takes the file's `preset`, else the quickstart.
        path: a TOML file of sections and knobs, with `preset = "..."` at the top if wanted.
        settings: as given to `--set`; values are TOML, a bare word is a string.

    Raises:
        UserError: a file that cannot be read, an unknown preset or knob, a value that is refused.
    """
    overrides = list(_from_file(Path(path))) if path else []
    for knob, value, origin in overrides:
        if knob == "preset":
            preset = preset or _known(value, PRESETS, "preset", origin)
    preset = _known(preset or DEFAULT_PRESET, PRESETS, "preset", "")
    overrides = [override for override in overrides if override[0] != "preset"]
    overrides += [_from_setting(setting) for setting in settings]
    return _build(PRESETS[preset], overrides)


def config_of(knobs: Mapping[str, Any], settings: Sequence[str] = ()) -> Config:
    """The configuration of knobs that a run stored, over it `section.knob=value` settings.

    Args:
        knobs: dotted names and values, as `flatten` names them and JSON has them; what is missing is the default.
        settings: as given to `--set`.

    Raises:
        UserError: an unknown knob, a value that is refused.
    """
    return _build({}, [*((knob, value, "") for knob, value in knobs.items()), *map(_from_setting, settings)])


def _build(preset: Mapping[str, Any], overrides: Sequence[tuple[str, Any, str]]) -> Config:
    """A preset with knobs changed: each by its dotted name, value, and where that comes from."""
    values: dict[str, Any] = {name: dict(knobs) for name, knobs in preset.items()}
    origins: dict[str, str] = {}
    knobs = {knob for knob, _, _ in flatten(Config())}
    for knob, value, origin in overrides:
        _known(knob, knobs, "knob", origin)
        section, _, name = knob.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
        origins[knob] = origin
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise UserError(_sentence(error, origins)) from None
    if config.training.start_from == reader.NAME:
        reader.check_fits(config.model, config.image)
    return config


def tensorflow_environment(config: Config) -> dict[str, str]:
    """Environment variables that TensorFlow reads when it is imported or first computes."""
    # Without it TensorFlow leaves oneDNN, with faster convolutions, to the newest Intel processors.
    variables = {"TF_ENABLE_ONEDNN_OPTS": "1"}
    if config.training.operation_threads:
        variables["TF_NUM_INTRAOP_THREADS"] = str(config.training.operation_threads)
    return variables


def flatten(config: Config) -> Iterator[tuple[str, Any, str]]:
    """Every knob as (dotted name, value, line of help), in the order of the fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            for knob in dataclasses.fields(value):
                yield f"{field.name}.{knob.name}", getattr(value, knob.name), _help(knob)
        else:
            yield field.name, value, _help(field)


def to_toml(config: Config) -> str:
    """The whole configuration as TOML, each knob under its line of help."""
    lines: list[str] = []
    current = ""
    for knob, value, text in flatten(config):
        section, _, name = knob.rpartition(".")
        if section != current:
            lines += ["", f"[{section}]"]
            current = section
        lines += [f"# {text}", f"{name} = {literal(value)}"]
    return "\n".join(lines) + "\n"


def literal(value: Any) -> str:
    """A knob's value in TOML, of which JSON's strings, numbers and booleans are a part."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(name)} = {literal(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _help(field: dataclasses.Field) -> str:
    # pydantic keeps the Field(...) as the default of the dataclass field.
    return field.default.description  # type: ignore[union-attr]


def _from_file(path: Path) -> Iterator[tuple[str, Any, str]]:
    origin = f" in {path}"
    try:
        document = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    for name, value in document.items():
        if isinstance(value, Mapping):
            for knob, inner in value.items():
                yield f"{name}.{knob}", inner, origin
        else:
            yield name, value, origin


def _from_setting(setting: str) -> tuple[str, Any, str]:
    knob, equals, text = setting.partition("=")
    if not equals or not knob.strip():
        raise UserError(f"--set takes section.knob=value, such as training.epochs=3, not {setting!r}")
    try:
        value = toml.loads(f"value = {text}")["value"]
    except toml.TOMLDecodeError:
        value = text.strip()  # a bare word: --set model.normalisation=before_relu
    return knob.strip(), value, " in --set"


def _known(name: Any, names: Any, noun: str, origin: str) -> str:
    if isinstance(name, str) and name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6) or sorted(names)
    what = "did you mean" if len(near) < len(names) else "there are"
    hint = f"{what} {', '.join(near)}" if len(near) < 10 else "`im2latex config show` lists them all"
    raise UserError(f"there is no {noun} {str(name)!r}{origin}; {hint}")


def _sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first refusal of pydantic as one sentence, with the number of further ones."""
    first, *others = error.errors()
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and part != "tuple[str, ...]")
    reason = first["msg"].removeprefix("Value error, ")
    help_lines = {knob: text for knob, _, text in flatten(Config())}
    if place in help_lines:
        given = first["input"] if not isinstance(first["input"], Mapping) else dict(first["input"])
        text = f"{place} = {literal(given) if _is_json(given) else given}{origins.get(place, '')} is refused: "
        text += f"{reason[0].lower()}{reason[1:]} ({help_lines[place]})"
    else:  # a rule over several knobs of a section
        text = f"the section {place} is refused: {reason}"
    return text + (f"; {len(others)} more values are refused" if others else "")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
