"""Defaults of the commands that make data sets, kept apart so that --help need not import those modules."""

from __future__ import annotations

MAX_REJECTED_SHARE = 0.05
MAX_TOKENS = 150
EVAL_SHARE = 0.05
DRAW_REJECTED_SHARE = 0.5
HELD_OUT_FONT = "antykwa"
TEST_SHARE = 0.5
