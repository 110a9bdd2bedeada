from __future__ import annotations

import pytest

from components.evaluator.gate import judge, parse, parse_all


def test_a_rule_is_parsed() -> None:
    rule = parse(" exact_match >= baseline - 0.02 where structure=big operator ")
    assert rule.score == "exact_match" and rule.at_least and rule.against_baseline
    assert (rule.bound, rule.slice) == (-0.02, "structure=big operator")
    assert rule.text == "exact_match >= baseline - 0.02 where structure=big operator"
    assert parse("bleu>=0.75")[2:] == (True, 0.75, False, "")
    assert parse("bleu >= baseline")[2:] == (True, 0.0, True, "")
    assert parse("unrendered <= baseline + 3")[2:] == (False, 3.0, True, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a valid rule; expected, for example, 'bleu >= 0.75'"),
        ("bleu > 0.5", "is not a valid rule"),
        ("bleu >= 0.5 and more", "is not a valid rule"),
        ("blue >= 0.5", "there is no score 'blue'; there are bleu, exact_match"),
        ("bleu >= 0.5.5", "0.5.5 is not a number"),
        ("bleu >= 75", "bleu is from 0 to 1"),
        ("bleu <= 0.5", "for bleu, higher is better; use >="),
        ("unrendered >= 5", "for unrendered, lower is better; use <="),
        ("calibration_error >= 0.1", "for calibration_error, lower is better; use <="),
        ("calibration_error <= 2", "calibration_error is from 0 to 1"),
        ("bleu >= 0.5 where length=7", "no slice length=7; the slices of length are 1-9, 10-19, 20-39, 40-79, 80+"),
        ("bleu >= 0.5 where colour=red", "no slice colour=red; there are length, area, structure, source, picture"),
        (
            "bleu >= 0.5 where picture=fax",
            "no slice picture=fax; the slices of picture are native, size-0.5, size-0.75,",
        ),
    ],
)
def test_an_invalid_rule_is_refused_with_an_example(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refusal:
        parse(text)
    assert reason in str(refusal.value)


def test_a_gate_needs_rules_without_duplicates() -> None:
    assert len(parse_all(["bleu >= 0.5", "bleu >= baseline", "bleu >= 0.6 where length=1-9"])) == 3
    with pytest.raises(ValueError, match="at least one rule"):
        parse_all([])
    with pytest.raises(ValueError, match="'bleu >= 0.5' and another rule limit the same score"):
        parse_all(["bleu >= 0.5", "bleu >= 0.6"])


def test_a_score_equal_to_the_bound_passes() -> None:
    rule = parse("bleu >= 0.75")
    assert judge(rule, 0.75, None).passed
    failed = judge(rule, 0.7, None)
    assert not failed.passed and (failed.value, failed.bound) == (0.7, 0.75)
    assert failed.text == "BLEU 0.7 is below 0.75"


def test_a_model_is_compared_with_the_baseline() -> None:
    rule = parse("bleu >= baseline - 0.02 where length=1-9")
    assert judge(rule, 0.79, 0.8).passed
    failed = judge(rule, 0.77, 0.8)
    assert not failed.passed and failed.bound == pytest.approx(0.78)
    assert failed.text == "BLEU where length=1-9 0.77 is below 0.78, 0.8 of the model serving now - 0.02"
    assert judge(parse("bleu >= baseline"), 0.8, 0.8).text == "BLEU 0.8 is at least 0.8, 0.8 of the model serving now"
    fewer = parse("unrendered <= baseline + 3")
    assert judge(fewer, 5, 2).passed and not judge(fewer, 6, 2).passed


def test_a_baseline_rule_without_a_baseline_passes() -> None:
    verdict = judge(parse("bleu >= baseline - 0.02"), 0.1, None)
    assert verdict.passed and verdict.bound is None
    assert verdict.text == "BLEU is 0.1; nothing to compare with"


@pytest.mark.parametrize("text", ["bleu >= 0 where structure=matrix", "bleu >= baseline where structure=matrix"])
def test_a_rule_on_a_slice_without_examples_fails(text: str) -> None:
    verdict = judge(parse(text), None, None)
    assert not verdict.passed and verdict.text == "BLEU where structure=matrix: there are no such examples"
