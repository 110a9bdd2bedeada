"""The configuration: one frozen object, loaded from a preset, a TOML file and `--set section.knob=value`.

Loading is strict. An unknown knob or an invalid value raises an error that names the knob, where the value came from,
and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data import toml
from im2latex.errors import UserError
from pipeline import presets
from pipeline.config.sections import (
    COMPONENTS,
    WITH_TUNER,
    BeamConfig,
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    KubeflowConfig,
    MetadataConfig,
    ServingConfig,
)
from trainer_module import reader
from trainer_module.config import STRICT
from trainer_module.config.decoding import DecodingConfig
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.config.tuning import TuningConfig
from trainer_module.config.vocabulary import VocabularyConfig

DEFAULT_PRESET = "quickstart"
# What a value should be, by pydantic's type of error, where its own message is not plain.
_TYPES = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "it should be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "it should be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "it should be true or false"),
    "string_type": "it should be a text in quotation marks",
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """All knobs of a run of the pipeline."""

    name: str = Field(
        default="im2latex", pattern=r"^[a-z][a-z0-9-]*$", description="name of the pipeline and its model"
    )
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    tuning: TuningConfig = TuningConfig()
    decoding: DecodingConfig = DecodingConfig()
    drift: DriftConfig = DriftConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    beam: BeamConfig = BeamConfig()
    metadata: MetadataConfig = MetadataConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()

    @property
    def components(self) -> tuple[str, ...]:
        """The components of the pipeline, in the order in which they run."""
        return WITH_TUNER if self.tuning.trials else COMPONENTS

    def section(self, *names: str) -> str:
        """Returns the named sections as one JSON object, the form in which components take them."""
        return json.dumps({name: dataclasses.asdict(getattr(self, name)) for name in names}, sort_keys=True)


def load_config(
    preset: str | None = None,
    path: Path | str | None = None,
    settings: Sequence[str] = (),
) -> Config:
    """Loads the configuration: a preset, changed by a TOML file, changed by `section.knob=value` settings.

    Args:
        preset: name of the preset; None for the `preset` in the file, else the quickstart.
        path: TOML file with sections and knobs and, optionally, `preset = "..."` at the top.
        settings: arguments of `--set`; values are TOML, or a bare word for a string.

    Raises:
        UserError: the file cannot be read, a preset or knob is unknown, or a value is invalid.
    """
    overrides = list(_from_file(Path(path))) if path else []
    for knob, value, origin in overrides:
        if knob == "preset":
            preset = preset or _known(value, presets.names(), "preset", origin)
    overrides = [override for override in overrides if override[0] != "preset"]
    overrides += [_from_setting(setting) for setting in settings]
    return _build([*_from_preset(_known(preset or DEFAULT_PRESET, presets.names(), "preset", "")), *overrides])


def config_of(knobs: Mapping[str, Any], settings: Sequence[str] = ()) -> Config:
    """Rebuilds the configuration that a run stored, changed by `section.knob=value` settings.

    Args:
        knobs: JSON values by dotted name, as in `flatten`; missing knobs have their default.
        settings: arguments of `--set`.

    Raises:
        UserError: a knob is unknown, or a value is invalid.
    """
    return _build([*((knob, value, "") for knob, value in knobs.items()), *map(_from_setting, settings)])


def _build(overrides: Sequence[tuple[str, Any, str]]) -> Config:
    """Builds a configuration from the defaults and from changed knobs: (dotted name, value, origin of the value)."""
    values: dict[str, Any] = {}
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
    if config.training.start_share and not config.training.start_from:
        raise UserError(
            f"training.start_share = {config.training.start_share} has no effect without a model to start from; set "
            "training.start_from, or leave out training.start_share"
        )
    if config.training.start_from == reader.NAME:
        reader.check_fits(config.model, config.image)
    if config.tuning.trials and config.tuning.width and config.training.start_from:
        raise UserError(
            f"training.start_from = {literal(config.training.start_from)} sets the width of the model, so it cannot be "
            "searched; set tuning.width = []"
        )
    return config


def tensorflow_environment(config: Config) -> dict[str, str]:
    """Returns the environment variables for TensorFlow, which it reads at its import or first computation."""
    # Without it, TensorFlow uses oneDNN, which has faster convolutions, on the newest Intel processors only.
    variables = {"TF_ENABLE_ONEDNN_OPTS": "1"}
    if config.training.operation_threads:
        variables["TF_NUM_INTRAOP_THREADS"] = str(config.training.operation_threads)
    return variables


def flatten(config: Config) -> Iterator[tuple[str, Any, str]]:
    """Yields every knob as (dotted name, value, help), in the order of the fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            for knob in dataclasses.fields(value):
                yield f"{field.name}.{knob.name}", getattr(value, knob.name), _help(knob)
        else:
            yield field.name, value, _help(field)


def to_toml(config: Config) -> str:
    """Writes the whole configuration as TOML, with each knob's help as a comment above it."""
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
    """Formats a knob's value as TOML; strings, numbers and booleans are the same as in JSON."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(name)} = {literal(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _help(field: dataclasses.Field) -> str:
    # pydantic keeps the Field(...) as the default of the dataclass field.
    return field.default.description  # type: ignore[union-attr]


def _from_preset(name: str) -> Iterator[tuple[str, Any, str]]:
    """Yields the knobs of a preset, after those of the preset that it is based on."""
    for knob, value, _ in _from_file(presets.FOLDER / f"{name}.toml"):
        if knob == "preset":
            yield from _from_preset(value)
        else:
            yield knob, value, f" in the preset {name}"


def _from_file(path: Path) -> Iterator[tuple[str, Any, str]]:
    origin = f" in {path}"
    try:
        document = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}; check the path") from None
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = "; texts need quotation marks" if str(error).startswith("Invalid value") else ""
        raise UserError(f"{path} is not valid TOML: {error}{hint}") from None
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
    listed = ", ".join(near)
    hint = f"did you mean {listed}?" if len(near) < len(names) else f"there are {listed}"
    hint = hint if len(near) < 10 else "`im2latex config show` lists them all"
    raise UserError(f"there is no {noun} {str(name)!r}{origin}; {hint}")


def _sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Formats pydantic's first error as one sentence, with the number of further errors."""
    first, *others = error.errors()
    knob = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and part != "tuple[str, ...]")
    reason = _TYPES.get(first["type"], first["msg"].removeprefix("Value error, ").replace("Input should", "it should"))
    if first["type"] == "tuple_type" and _is_json(first["input"]):
        reason = f"it should be a list, such as {literal([first['input']])}"
    help_lines = {knob: text for knob, _, text in flatten(Config())}
    if knob in help_lines:
        value = first["input"] if not isinstance(first["input"], Mapping) else dict(first["input"])
        text = f"{knob} = {literal(value) if _is_json(value) else value}{origins.get(knob, '')} is not valid: "
        text += f"{reason[0].lower()}{reason[1:]} ({help_lines[knob]})"
    else:  # a rule over several knobs of a section
        text = f"the section {knob} is not valid: {reason}"
    return text + (f"; {len(others)} more values are not valid" if others else "")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
