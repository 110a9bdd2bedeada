from __future__ import annotations

import json
from pathlib import Path

import pytest

from im2latex.errors import UserError
from pipeline import presets
from pipeline.config import Config, config_of, flatten, load_config, to_toml


def test_the_preset_of_image2latex_tf2_is_the_default_model_of_8_379_008_parameters() -> None:
    model = load_config("image2latex-tf2").model
    assert model.filters == (64, 128, 256, 256, 512, 512)
    assert (model.decoder_units, model.embedding_units) == (512, 80)
    assert not model.hidden_recurrence and not model.row_embedding


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_round_trips_through_toml(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    # The file sets every knob, so it overrides another preset completely.
    assert load_config("small" if preset != "small" else "image2latex-tf2", file) == config


def test_every_preset_has_a_description() -> None:
    lines = [presets.description(name) for name in presets.names()]
    assert len(set(lines)) == len(lines) == len(list(presets.FOLDER.glob("*.toml"))) >= 6
    for name, line in zip(presets.names(), lines, strict=True):
        assert 20 < len(line) <= 110, name
        assert (presets.FOLDER / f"{name}.toml").read_text("utf-8").startswith(f"# {line}\n")


def test_a_preset_can_be_based_on_another() -> None:
    paper, coarse = load_config("paper"), load_config("paper-coarse-to-fine")
    changed = {
        knob: value for (knob, value, _), (_, before, _) in zip(flatten(coarse), flatten(paper), strict=True)
        if value != before
    }  # fmt: skip
    assert changed == {"model.attention": "hierarchical", "training.batch_size": 6}
    assert coarse.image.max_width == 504 != Config().image.max_width


def test_settings_override_the_file_and_the_file_overrides_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "small"\nname = "mine"\n[training]\nepochs = 5\nbatch_size = 7\n', encoding="utf-8")
    config = load_config(path=file, settings=["training.epochs=3", "model.normalisation=before_relu"])
    assert config.name == "mine"
    assert config.training.epochs == 3
    assert config.training.batch_size == 7
    assert config.training.optimizer == load_config("small").training.optimizer == "adam"
    assert config.model.normalisation == "before_relu"


def test_a_preset_on_the_command_line_overrides_the_one_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "small"\n', encoding="utf-8")
    assert load_config("image2latex-tf2", file) == Config()


def test_escaped_text_round_trips_through_toml(tmp_path: Path) -> None:
    source = 'a "quoted" \\ folder\twith é and 😀'
    file = tmp_path / "config.toml"
    file.write_text(to_toml(load_config(settings=["data.source=" + repr(source)])), encoding="utf-8")
    literal_string = load_config(path=file).data.source
    file.write_text(f"[data]\nsource = '{source}'\n", encoding="utf-8")
    assert load_config(path=file).data.source == source
    assert literal_string  # written and read as the same text, independent of Python's repr


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("training.epochs=0", ["training.epochs = 0", "greater than or equal to 1", "passes over"]),
        ("training.epochs=three", ["training.epochs", '"three"', "a whole number"]),
        ("training.learning_rate=high", ["training.learning_rate", '"high"', "should be a number"]),
        ("training.short_first=maybe", ["training.short_first", '"maybe"', "true or false"]),
        ("data.source=7", ["data.source = 7", "a text in quotation marks"]),
        ("evaluation.gate=bleu >= 0.5", ["evaluation.gate", 'should be a list, such as ["bleu >= 0.5"] (']),
        ("training.learning_rate=nan", ["training.learning_rate", "greater than 0"]),
        ("training.optimizer=adagrad", ["training.optimizer", "'sgd', 'adam' or 'adamw'"]),
        ("tuning.trials=-1", ["tuning.trials = -1", "greater than or equal to 0", "0: no tuning"]),
        ("tuning.trials=1", ["tuning.trials = 1", "nothing to be compared with", "2 or more"]),
        ("tuning.depth=[1, 2]", ["there is no knob 'tuning.depth'", "tuning.width"]),
        ("tuning.learning_rate=[4, 1]", ["tuning.learning_rate = [4, 1]", "the lower one first"]),
        ("tuning.dropout=[0.3]", ["tuning.dropout = [0.3]", "two numbers"]),
        ("tuning.dropout=[0.5, 1]", ["tuning.dropout", "less than 1"]),
        ("tuning.width=[0]", ["tuning.width = 0", "greater than 0"]),
        ("serving.keep=1", ["serving.keep = 1", "no version to roll back to", "0 for all"]),
        ("model.attention=local", ["model.attention", "'standard'", "'hard'"]),
        ("model.filters=[1, 2]", ["model.filters", "channels of the six convolutions"]),
        ("model.decoder_units=3", ["model.decoder_units", "multiple of 2"]),
        ("image.border=40", ["image", "max_height=64 leaves no room between borders of 40 pixels"]),
        ("data.level=hard", ["data.level", "no such level", "digits", "full"]),
        ("data.dpi=10", ["data.dpi", "greater than or equal to 40"]),
        ("evaluation.gate=['bleu >= 75']", ["evaluation.gate", "bleu is from 0 to 1"]),
        ("evaluation.gate=[]", ["evaluation.gate", "at least one rule"]),
        ("evaluation.gate=['blue >= 0.5']", ["evaluation.gate", "no score 'blue'", "exact_match"]),
        (
            "evaluation.gate=['bleu >= 0 where picture=blur']",
            ["evaluation", "where picture=blur", "such as 200 examples"],
        ),
        (
            "evaluation.gate=['bleu >= 0 where picture=fax']",
            ["evaluation.gate", "no slice picture=fax", "jpeg-30, rota"],
        ),
        ("evaluation.robustness=-1", ["evaluation.robustness = -1", "greater than or equal to 0"]),
        ("beam.arguments=['runner']", ["beam", "'runner'", "two dashes"]),
        ("name=My Model", ["name", "My Model"]),
        ("training.epoch=3", ["no knob 'training.epoch'", "did you mean training.epochs"]),
        ("training=3", ["no knob 'training'"]),
        ("zzz=1", ["no knob 'zzz'", "im2latex config show"]),
        ("training.epochs", ["--set takes section.knob=value", "'training.epochs'"]),
    ],
)
def test_an_invalid_setting_is_refused_with_the_knob_and_what_is_allowed(setting: str, names: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        load_config(settings=[setting])
    sentence = str(refusal.value)
    assert "\n" not in sentence
    for name in names:
        assert name in sentence


def test_an_error_names_the_file_of_the_value(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\nepochs = 0\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"training\.epochs = 0 in .*run\.toml is not valid"):
        load_config(path=file)


@pytest.mark.parametrize("content", [b"[training\n", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.toml is not valid TOML"):
        load_config(path=file)


def test_a_text_without_quotation_marks_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[data]\nsource = formulas\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.toml is not valid TOML: .*line 2.*; texts need quotation marks$"):
        load_config(path=file)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml.*No such file"):
        load_config(path=tmp_path / "none.toml")


def test_an_unknown_preset_is_refused_with_a_list_of_presets() -> None:
    with pytest.raises(
        UserError,
        match="no preset 'huge'; there are image2latex-tf2, paper, paper-coarse-to-fine, quickstart, reader, small",
    ):
        load_config("huge")
    with pytest.raises(UserError, match="did you mean quickstart"):
        load_config("quick-start")


def test_every_knob_has_help() -> None:
    for knob, _, text in flatten(Config()):
        assert len(text) > 5 and "\n" not in text, knob


def test_a_stored_configuration_is_restored() -> None:
    config = load_config("quickstart", settings=["data.source=/data", "training.epochs=3"])
    stored = json.loads(json.dumps({knob: value for knob, value, _ in flatten(config)}))
    assert config_of(stored) == config
    assert config_of(stored, ["training.seed=5"]) == load_config(
        "quickstart", settings=["data.source=/data", "training.epochs=3", "training.seed=5"]
    )
    with pytest.raises(UserError, match=r"there is no knob 'training.momentum'"):
        config_of({**stored, "training.momentum": 1})


def test_a_search_needs_something_to_search() -> None:
    nothing = ["tuning.learning_rate=[]", "tuning.width=[]", "tuning.dropout=[]"]
    assert load_config(settings=nothing).tuning.trials == 0
    with pytest.raises(UserError, match="^the section tuning is not valid: .* are all empty: give one of them, or set"):
        load_config(settings=[*nothing, "tuning.trials=2"])


def test_a_share_of_the_start_needs_a_model_to_start_from() -> None:
    with pytest.raises(UserError, match=r"^training\.start_share = 0\.5 has no effect .* set training\.start_from, or"):
        load_config("quickstart", settings=["training.start_share=0.5"])
    started = load_config("quickstart", settings=["training.start_share=0.5", "training.start_from=/models/7"])
    assert started.training.start_share == 0.5


def test_the_width_is_not_searched_if_the_model_to_start_from_sets_it() -> None:
    start = ["training.start_from=/models/7", "tuning.trials=2"]
    with pytest.raises(UserError, match=r'start_from = "/models/7" sets the width .* set tuning\.width = \[\]$'):
        load_config(settings=start)
    assert load_config(settings=[*start, "tuning.width=[]"]).tuning.width == ()
