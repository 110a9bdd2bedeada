"""The gate: the rules that a model must pass to be blessed.

    bleu >= 0.75                                  an absolute bound
    bleu >= baseline - 0.01                       at most 0.01 below the model that is serving now
    exact_match >= 0.4 where structure=fraction   on one slice
    bleu >= baseline where source=corrections     on what people corrected
    bleu >= 0.6 where picture=jpeg-30             on the examples, changed to another kind of picture
    unrendered <= baseline + 3                    for a score where lower is better

A rule with `baseline` passes if no model is serving yet. A rule on a slice without examples fails, because the score is
unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from components.evaluator.pictures import PICTURE, PICTURES
from components.evaluator.slices import SLICES
from components.formula_metrics.scores import SCORES

# Keys and values that a rule can have after `where`.
_SLICES = {**SLICES, PICTURE: list(PICTURES)}
_RULE = re.compile(
    r"\s*(?P<score>\w+)\s*(?P<comparison>>=|<=)\s*(?:(?P<baseline>baseline)(?:\s*(?P<sign>[-+])\s*(?P<margin>[\d.]+))?"
    r"|(?P<bound>[\d.]+))(?:\s+where\s+(?P<key>\w+)\s*=\s*(?P<value>.+?))?\s*"
)


class GateRule(NamedTuple):
    """One rule of the gate."""

    text: str
    score: str  # of SCORES
    at_least: bool  # the bound is a minimum; else it is a maximum
    bound: float  # of the score; if `against_baseline`, of the score minus the baseline's
    against_baseline: bool
    slice: str  # `key=value`, "" for all examples

    @property
    def of_picture(self) -> bool:
        """Whether it applies to a kind of picture, so that the model has to read changed pictures too."""
        return self.slice.startswith(f"{PICTURE}=")


def parse(text: str) -> GateRule:
    """Parses one rule.

    Raises:
        ValueError: the rule is not valid; the message says why and what is expected.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a valid rule; expected, for example, 'bleu >= 0.75' or "
            "'bleu >= baseline - 0.01 where length=1-9'"
        )
    score = match["score"]
    if score not in SCORES:
        raise ValueError(f"there is no score {score!r}; there are {', '.join(SCORES)}")
    try:
        bound = float(match["bound"] or match["margin"] or 0)
    except ValueError:
        raise ValueError(f"{text!r}: {match['bound'] or match['margin']} is not a number") from None
    if not SCORES[score].is_count and bound > 1:
        raise ValueError(f"{text!r}: {score} is from 0 to 1")
    at_least = match["comparison"] == ">="
    if at_least == SCORES[score].is_better_low:
        better, comparison = ("lower", "<=") if at_least else ("higher", ">=")
        raise ValueError(f"{text!r}: for {score}, {better} is better; use {comparison}")
    key, value = match["key"], match["value"]
    if key and value not in _SLICES.get(key, ()):
        known = (
            f"the slices of {key} are {', '.join(_SLICES[key])}"
            if key in _SLICES
            else f"there are {', '.join(_SLICES)}"
        )
        raise ValueError(f"{text!r}: there is no slice {key}={value}; {known}")
    if match["sign"] == "-":
        bound = -bound
    return GateRule(text.strip(), score, at_least, bound, bool(match["baseline"]), f"{key}={value}" if key else "")


def parse_all(texts: Iterable[str]) -> list[GateRule]:
    """Parses the rules of a gate.

    Raises:
        ValueError: there are no rules, a rule is not valid, or two rules limit the same score on the same slice.
    """
    rules = [parse(text) for text in texts]
    if not rules:
        raise ValueError("a gate needs at least one rule; 'bleu >= 0' lets every model pass")
    bounded = [(rule.score, rule.against_baseline, rule.slice) for rule in rules]
    for rule, what in zip(rules, bounded, strict=True):
        if bounded.count(what) > 1:
            raise ValueError(f"{rule.text!r} and another rule limit the same score")
    return rules


class Verdict(NamedTuple):
    """The result of one rule."""

    rule: str
    passed: bool  # whether the model passes
    value: float | None  # None: the slice has no examples
    bound: float | None  # None: there is no baseline to compare with
    text: str  # for people


def judge(rule: GateRule, value: float | None, baseline: float | None) -> Verdict:
    """Applies a rule to the new model's score `value` and the score of the model serving now; None if unknown."""
    title = SCORES[rule.score].title + (f" where {rule.slice}" if rule.slice else "")
    if value is None:
        return Verdict(rule.text, False, None, None, f"{title}: there are no such examples")
    if not rule.against_baseline:
        bound = rule.bound
        of = ""
    elif baseline is None:
        return Verdict(rule.text, True, value, None, f"{title} is {_shown(value)}; nothing to compare with")
    else:
        bound = baseline + rule.bound
        margin = f" {'-' if rule.bound < 0 else '+'} {abs(rule.bound):g}" if rule.bound else ""
        of = f", {_shown(baseline)} of the model serving now{margin}"
    passed = value >= bound if rule.at_least else value <= bound
    relation = ("at least" if rule.at_least else "at most") if passed else ("below" if rule.at_least else "above")
    return Verdict(rule.text, passed, value, bound, f"{title} {_shown(value)} is {relation} {_shown(bound)}{of}")


def _shown(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)
