"""Trains without TFX and TensorFlow, with Keras on JAX, for machines with a GPU and few packages.

    python -m pipeline.standalone DATA --out OUT --preset paper

With --hosts, several machines train one model together.

It writes OUT/weights.npz, which `im2latex export --weights OUT` converts to a SavedModel, OUT/metrics.json and
OUT/predictions.txt. It needs jax, keras, numpy, pillow, pydantic, protobuf, google-crc32c and sacrebleu.

Keras is imported inside functions, because its backend must be chosen first, and because the processes that read images
do not need it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from im2latex.errors import UserError
from pipeline import presets
from pipeline.config import load_config
from pipeline.standalone import say
from pipeline.standalone.evaluation import evaluate
from pipeline.standalone.examples import make_vocabulary, read_splits
from pipeline.standalone.hosts import FAILED, add_options, chosen_hosts, run_host
from pipeline.standalone.training import train_model

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; an error that a person can fix is printed as one sentence on stderr.

    Returns:
        The exit status: 0 done, 1 failed, 130 stopped by Ctrl-C.
    """
    return _reported(_run, argv)


def _reported(work: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    try:
        return work(argv)
    except UserError as error:
        print(f"im2latex: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("im2latex: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    hosts = chosen_hosts(_parser().parse_args(argv))
    _choose_backend()
    return _train(argv) if hosts.count == 1 else run_host(hosts, functools.partial(_reported, _train), argv)


def _train(argv: Sequence[str] | None) -> int:
    """Reads the examples, trains, evaluates, and writes the results.

    Raises:
        UserError: a setting is invalid, the data cannot be used, or the training diverged.
    """
    started = time.monotonic()
    arguments = _parser().parse_args(argv)
    hosts = chosen_hosts(arguments)
    config = load_config(arguments.preset, arguments.config, arguments.settings)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {arguments.out}: {error.strerror}; choose another --out") from None
    training, validation = read_splits(
        arguments.data, config.image, arguments.out, arguments.examples, config.data.spelling
    )
    vocabulary = make_vocabulary(training.latex(), config.vocabulary.min_count)
    say(
        f"{len(training.examples):,} training and {len(validation.examples):,} validation examples, vocabulary of "
        f"{len(vocabulary)} ({time.monotonic() - started:.1f} s)"
    )
    deadline = started + 60 * arguments.minutes
    trained, metrics = train_model(config, vocabulary, training, validation, arguments.out, deadline, hosts)
    if hosts.host > 0:
        say(f"{hosts}: done; host 0 evaluates the model")
        return 0
    metrics |= evaluate(trained, validation, config.data.spelling, arguments.beam, arguments.out)
    metrics["seconds"] = round(time.monotonic() - started, 1)
    (arguments.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    say(f"weights.npz, metrics.json and predictions.txt in {arguments.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    def number(kind: type[int] | type[float], text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    count, minutes = functools.partial(number, int), functools.partial(number, float)
    count.__name__, minutes.__name__ = "number", "number of minutes"  # type: ignore[attr-defined]
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.standalone",
        description="Train without TFX and TensorFlow; the same command continues a killed one.",
    )
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="what `im2latex data import` takes, or a folder of TFRecords it made"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for what comes of it")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(presets.names())}; quickstart if not given; its section data does not count",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file over the preset")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KNOB=VALUE", help="one knob; repeatable"
    )
    parser.add_argument(
        "--minutes", type=minutes, default=math.inf, metavar="N", help="train no longer than that, reading included"
    )
    parser.add_argument("--examples", type=count, metavar="N", help="maximum number of examples of each split")
    parser.add_argument("--beam", type=count, metavar="W", help="also evaluate with beam search of this width")
    add_options(parser)
    return parser


def _choose_backend() -> None:
    """Selects JAX as Keras's backend."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    missing = [name for name in ("jax", "keras") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this training needs {' and '.join(missing)}: install {'them' if missing[1:] else 'it'} first")
    if os.environ["KERAS_BACKEND"] != "jax":
        raise UserError(f"this training runs on JAX, but KERAS_BACKEND is {os.environ['KERAS_BACKEND']}; unset it")
