"""Fuzz tests: any file gives records or a user error, and any formula gives tokens or a reason; no other exceptions.

Each test takes IM2LATEX_FUZZ inputs, 300 by default.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
from collections.abc import Callable
from random import Random
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.dataset.record import BadRecord, Example, Record, decode, encode
from data.dataset.tfrecords import frame, parse_tfrecords
from data.pictures.synthetic import draw_png
from im2latex.errors import UserError
from im2latex.latex_commands import FUNCTIONS
from im2latex.tokenizer import FormulaError, tokenize

FUZZ = int(os.environ.get("IM2LATEX_FUZZ", 300))
Input = TypeVar("Input")
# Inputs that are made of one choice of hypothesis's, which costs more than all of them.
TOGETHER = 10
FUZZED = settings(
    max_examples=-(-FUZZ // TOGETHER), deadline=None, suppress_health_check=list(HealthCheck), database=None
)

GOOD = encode(Record(draw_png("x", 10), "x ^ { 2 }", "good"))
PLAIN = frame(GOOD) + frame(b"") + frame(encode(Record(b"", "\\alpha", "ä")))


def several(make: Callable[[Random], Input]) -> st.SearchStrategy[list[Input]]:
    """Makes several inputs from random numbers whose seed hypothesis chooses."""
    return st.integers(0, 2**32).map(lambda number: [make(Random(f"{number} {i}")) for i in range(TOGETHER)])


def change(seeds: list[bytes], random: Random) -> bytes:
    """Returns one of the seeds with some bytes changed, removed or inserted, and perhaps cut off."""
    content = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 6)):
        position = random.randint(0, len(content))
        content[position : position + random.randint(0, 4)] = random.randbytes(random.randint(0, 4))
    return bytes(content[: random.randint(0, len(content))] if random.random() < 0.5 else content)


def framed(length: int) -> bytes:
    """Returns a record whose header has this length and a correct checksum."""
    head = struct.pack("<Q", length)
    return head + frame(head)[-4:] + b"x"


SEEDS = [PLAIN, gzip.compress(PLAIN), gzip.compress(PLAIN, 0)]
FILES = (
    lambda random: change(SEEDS, random),
    lambda random: change(SEEDS, random),
    lambda random: b"".join(frame(random.randbytes(random.randint(0, 20))) for _ in range(random.randint(0, 5))),
    lambda random: framed(random.getrandbits(random.randint(0, 64))),
    lambda random: random.randbytes(random.randint(0, 64)),
)


@FUZZED
@given(several(lambda random: random.choice(FILES)(random)))
def test_a_file_gives_records_or_a_user_error(files: list[bytes]) -> None:
    for content in files:
        try:
            contents = list(parse_tfrecords(io.BytesIO(content), "data.tfrecord"))
        except UserError as error:
            assert str(error).startswith("data.tfrecord is damaged at record ") and "\n" not in str(error)
            continue
        plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        assert b"".join(map(frame, contents)) == plain  # nothing is lost silently


def example(random: Random) -> bytes:
    """Returns a serialised Example with some of the features, as lists of bytes or integers."""
    message = Example()
    for name in ("image", "latex", "name", "other"):
        kind = random.choice(("bytes", "bytes", "bytes", "int64", "float", "none", "missing"))
        count, feature = random.choice((1, 1, 1, 0, 2)), message.features.feature
        if kind == "bytes":
            feature[name].bytes_list.value.extend(random.randbytes(random.randint(0, 3)) for _ in range(count))
        elif kind == "int64":
            feature[name].int64_list.value.extend([random.getrandbits(63)] * count)
        elif kind == "float":
            feature[name].float_list.value.extend([random.random()] * count)
        elif kind == "none":
            feature[name].SetInParent()
    return message.SerializeToString()


EXAMPLES = (lambda random: change([GOOD], random), example, lambda random: random.randbytes(random.randint(0, 64)))


@FUZZED
@given(several(lambda random: random.choice(EXAMPLES)(random)))
def test_an_invalid_record_has_a_reason(examples: list[bytes]) -> None:
    for content in examples:
        try:
            record = decode(content)
        except BadRecord as error:
            assert error.reason and "\n" not in error.reason
            continue
        assert decode(encode(record)) == record


PARTS = (
    [*"{}[]_^'&~$% \\\n123abxyz+-=()<>|,.", "{}", "\\\\", "\\left(", "\\right)", "\\left", "\\right.", "\\middle|",
     "\\frac", "\\over", "\\choose", "\\sqrt", "\\rm", "\\mbox{ab ", "\\text", "\\operatorname*", "\\label{",
     "\\begin{array}{cc}", "\\end{array}", "\\begin{equation}", "\\end{equation}", "\\begin", "\\end{", "\\[4mm]",
     "\\hspace*", "\\hbox", "\\nonumber", "\\limits", "\\,", "\\stackrel", "\\hat", "\\alpha", "ä", "\u2028", "\0",
     *sorted(FUNCTIONS)]
)  # fmt: skip


def text(random: Random) -> str:
    """Returns parts of LaTeX in random order, or random characters."""
    if random.random() < 0.9:
        return "".join(random.choices(PARTS, k=random.randint(0, 30)))
    return "".join(chr(random.choice((random.randint(0, 127), random.randint(0, 0xD7FF)))) for _ in range(30))


@FUZZED
@given(several(text))
def test_a_text_gives_tokens_or_a_reason(texts: list[str]) -> None:
    for latex in texts:
        try:
            tokens = tokenize(latex)
        except FormulaError as error:
            assert str(error) and "\n" not in str(error)
            continue
        assert all(token and not token.isspace() for token in tokens)
        assert tokenize(" ".join(tokens)) == tokens  # compared with the corpus that it was learned from
