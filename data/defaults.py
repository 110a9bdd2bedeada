"""Defaults of the commands that make data sets; the command line shows them before it needs those modules."""

from __future__ import annotations

MAX_REJECTED_SHARE = 0.05
MAX_TOKENS = 150
EVAL_SHARE = 0.05
DRAW_REJECTED_SHARE = 0.5
HELD_OUT_FONT = "antykwa"
TEST_SHARE = 0.5
