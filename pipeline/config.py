"""Everything that can be set, in one frozen object: presets, TOML files and `--set section.knob=value`.

Reading is strict: a knob that does not exist, or a value that is not allowed, is refused with
one sentence that names the knob, where the value came from, and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from components.evaluator.gate import parse_all
from data.errors import UserError
from data.synthetic import DEFAULT_DPI, DEFAULT_LEVEL, DEFAULT_MAX_TOKENS, LEVELS, MIN_TOKENS
from trainer_module.config import STRICT, ImageConfig, ModelConfig, TrainingConfig, VocabularyConfig

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

SYNTHETIC = "synthetic"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the examples come from."""

    source: str = Field(
        default=SYNTHETIC, min_length=1, description="synthetic, or a folder with train/, eval/ and test/"
    )
    train: int = Field(default=10000, ge=1, description="synthetic formulas to learn from")
    eval: int = Field(default=300, ge=1, description="synthetic formulas to watch the training with")
    test: int = Field(default=300, ge=1, description="synthetic formulas to judge the model with")
    level: str = Field(default=DEFAULT_LEVEL, description=f"how rich the synthetic formulas are: {', '.join(LEVELS)}")
    seed: int = Field(default=1, ge=0, description="seed of the synthetic formulas")
    dpi: int = Field(default=DEFAULT_DPI, ge=40, le=600, description="resolution of synthetic formulas, dots per inch")
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

    split: Literal["train", "eval", "test"] = Field(default="test", description="examples that judge the model")
    gate: tuple[str, ...] = Field(
        default=("bleu >= 0.7", "bleu >= baseline - 0.01"),
        description='rules a model must keep to be served, such as "bleu >= baseline - 0.02 where length=1-9"',
    )

    @field_validator("gate")
    @classmethod
    def _rules_are_rules(cls, gate: tuple[str, ...]) -> tuple[str, ...]:
        parse_all(gate)
        return gate


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServingConfig:
    """The check before the push: a fresh process loads the model and reads images with it."""

    # All of them go through in one batch too, which costs memory; 32 are enough for a median.
    check_images: int = Field(default=32, ge=1, le=256, description="real images that the fresh process reads")
    # Three times what the largest preset needed for its largest images on two busy cores.
    max_seconds: float = Field(default=2.0, gt=0, description="longest median time of one image there, seconds")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BeamConfig:
    """Where the data-parallel steps run."""

    # Newer Beams answer DirectRunner by downloading a binary; this one runs in the process.
    arguments: tuple[str, ...] = Field(default=("--runner=FnApiRunner",), description="arguments of the Beam runner")

    @model_validator(mode="after")
    def _arguments_are_options(self) -> BeamConfig:
        for argument in self.arguments:
            if not argument.startswith("--"):
                raise ValueError(f"arguments holds {argument!r}, which does not start with two dashes")
        return self


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
            "epochs": 9,
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
        "evaluation": {"gate": ("bleu >= 0.5", "bleu >= baseline - 0.01")},
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

    values: dict[str, Any] = {name: dict(knobs) for name, knobs in PRESETS[preset].items()}
    origins: dict[str, str] = {}
    knobs = {knob for knob, _, _ in flatten(Config())}
    for knob, value, origin in overrides:
        _known(knob, knobs, "knob", origin)
        section, _, name = knob.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
        origins[knob] = origin
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise UserError(_sentence(error, origins)) from None


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
    """A knob's value in TOML, of which JSON's strings, numbers, booleans and lists are a part."""
    return json.dumps(value, ensure_ascii=False)


def _help(field: dataclasses.Field) -> str:
    # pydantic keeps the Field(...) as the default of the dataclass field.
    return field.default.description  # type: ignore[union-attr]


def _from_file(path: Path) -> Iterator[tuple[str, Any, str]]:
    origin = f" in {path}"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
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
