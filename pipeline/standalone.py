"""Training without TFX and TensorFlow: Keras on JAX, for a machine that has a GPU and little else.

    python -m pipeline.standalone DATA --out OUT --preset paper

leaves OUT/weights.npz, which `im2latex export --weights OUT` makes a SavedModel of, OUT/metrics.json and
OUT/predictions.txt. It needs jax, keras, numpy, pillow, pydantic, protobuf, google-crc32c and sacrebleu.

Keras is imported inside functions: the processes that read the images do without it, and its
backend is chosen before.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import io
import json
import logging
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from components.formula_metrics.scores import SCORES, text_statistics
from data.errors import UserError
from data.im2latex import Candidate, chunked, convert, hold_out, open_source
from data.parallel import ordered_map
from data.records import EVAL_SHARE, MAX_REJECTED_SHARE, MAX_TOKENS, TEST_SHARE, BadRecord, decode, read_records
from data.spelling import NORMAL, respell
from im2latex.images import normalise
from pipeline import presets
from pipeline.config import Config, load_config
from trainer_module.batching import Batch, Buckets, Example, batches, prefetched
from trainer_module.config.image import ImageConfig
from trainer_module.features import PAD, SPECIAL_TEXTS, SPECIALS, UNKNOWN

if TYPE_CHECKING:
    from trainer_module.trained import Trained
    from trainer_module.training import Progress

FAILED = 1
INTERRUPTED = 130

# Shapes that a training step is compiled for, at most; more of them pad less and take longer to compile.
SHAPES = 16
# Batches of an epoch that a shape has to be worth.
BATCHES_PER_SHAPE = 8
BATCHES_AHEAD = 8
# Images that are read at once when the model is judged.
READ_AT_ONCE = 32
SAMPLES = 20

say = functools.partial(print, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: what a person can put right becomes one sentence on stderr.

    Returns:
        The exit status: 0 done, 1 failed, 130 stopped by Ctrl-C.
    """
    try:
        run(argv)
    except UserError as error:
        print(f"im2latex: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("im2latex: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(argv: Sequence[str] | None = None) -> None:
    """Reads the examples, trains, judges, and writes what came of it.

    Args:
        argv: the arguments; None takes the process's.

    Raises:
        UserError: a wrong setting, unusable data, a missing package, or a training that diverged.
    """
    started = time.monotonic()
    arguments = _parser().parse_args(argv)
    config = load_config(arguments.preset, arguments.config, arguments.settings)
    _choose_backend()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {arguments.out}: {error.strerror}; choose another --out") from None
    training, validation = read_splits(arguments.data, config.image, arguments.examples, config.data.spelling)
    vocabulary = make_vocabulary((formula.latex for formula in training), config.vocabulary.min_count)
    say(
        f"{len(training):,} training and {len(validation):,} validation examples, vocabulary of "
        f"{len(vocabulary)} ({time.monotonic() - started:.1f} s)"
    )
    deadline = started + 60 * arguments.minutes
    trained, metrics = _train(config, vocabulary, training, validation, arguments.out, deadline)
    metrics |= _judge(trained, validation, config.data.spelling, arguments.beam, arguments.out)
    metrics["seconds"] = round(time.monotonic() - started, 1)
    (arguments.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    say(f"weights.npz, metrics.json and predictions.txt in {arguments.out}")


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
        description="Train without TFX and TensorFlow; the same command goes on where a killed one was.",
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
    parser.add_argument("--examples", type=count, metavar="N", help="read at most so many of each split")
    parser.add_argument("--beam", type=count, metavar="W", help="judge by beam search of this width too")
    return parser


def _choose_backend() -> None:
    """Sees to it that Keras will compute with JAX."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    missing = [name for name in ("jax", "keras") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this training needs {' and '.join(missing)}: install {'it' if missing[1:] else 'them'} first")
    if os.environ["KERAS_BACKEND"] != "jax":
        raise UserError(f"this training runs on JAX, but KERAS_BACKEND is {os.environ['KERAS_BACKEND']}; unset it")


# --- data -------------------------------------------------------------------------------------


class Formula(NamedTuple):
    """An example before there is a vocabulary."""

    example: Example  # without tokens
    latex: str  # tokens separated by spaces
    name: str

    def numbered(self, ids: Mapping[str, int]) -> Example:
        """The example with the ids of its tokens."""
        tokens = [ids.get(token, UNKNOWN) for token in self.latex.split()]
        return self.example._replace(tokens=np.array(tokens, np.int32))


def read_splits(
    source: Path, config: ImageConfig, limit: int | None = None, spelling: str = NORMAL
) -> tuple[list[Formula], list[Formula]]:
    """The training and the validation examples of a source, their images normalised on all cores.

    Args:
        source: whatever `im2latex data import` takes, or a folder of TFRecords with train/ and eval/.
        config: how to normalise images.
        limit: read at most so many records of each split; None: all.
        spelling: of the formulas, as `data.spelling.respell` takes it.

    Raises:
        UserError: there is no such source, a split is empty, or too many records are bad.
    """
    candidates, raw = _candidates(source)
    splits: dict[str, list[Formula]] = {"train": [], "eval": []}
    reasons: Counter[str] = Counter()
    chunks = chunked(_limited(candidates, splits, limit))
    for prepared in ordered_map(functools.partial(_prepare, raw=raw, config=config, spelling=spelling), chunks):
        for split, outcome in prepared:
            if isinstance(outcome, Formula):
                splits[split].append(outcome)
            else:
                reasons[outcome] += 1
    bad = sum(reasons.values())
    total = bad + sum(len(formulas) for formulas in splits.values())
    common = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    if bad > MAX_REJECTED_SHARE * total:
        raise UserError(f"{bad:,} of {total:,} records of {source} are unusable ({common}); check the data")
    if bad:
        say(f"left out {bad:,} unusable records ({common})")
    for name, formulas in splits.items():
        if not formulas:
            raise UserError(f"{source} has no examples for {name}; check the data")
    return splits["train"], splits["eval"]


def _candidates(source: Path) -> tuple[Iterator[Candidate], bool]:
    """The records of a source in the splits that an import gives them, and whether its images are full pages."""
    if (source / "train").is_dir():
        records = ((split, record) for split in ("train", "eval") for record in read_records(source / split))
        return (Candidate(split, record.name, record.image, record.latex.encode()) for split, record in records), False
    layout, candidates, splits = open_source(source)
    return hold_out(candidates, splits, EVAL_SHARE, TEST_SHARE), layout == "raw"


def _limited(candidates: Iterable[Candidate], splits: Iterable[str], limit: int | None) -> Iterator[Candidate]:
    seen = dict.fromkeys(splits, 0)
    for candidate in candidates:
        if candidate.split in seen and (limit is None or seen[candidate.split] < limit):
            seen[candidate.split] += 1
            yield candidate


def _prepare(chunk: list[Candidate], raw: bool, config: ImageConfig, spelling: str) -> list[tuple[str, Formula | str]]:
    """Of each candidate its split, and what it holds or the reason it is bad."""
    prepared: list[tuple[str, Formula | str]] = []
    for candidate in chunk:
        try:
            record = decode(convert(candidate, raw, MAX_TOKENS, spelling))
        except BadRecord as error:
            prepared.append((candidate.split, error.reason))
            continue
        pixels, file = normalise(record.image, config), io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        height, width = pixels.shape
        example = Example(file.getvalue(), height, width, np.zeros(0, np.int32))
        prepared.append((candidate.split, Formula(example, record.latex, record.name)))
    return prepared


def make_vocabulary(latex: Iterable[str], min_count: int) -> list[str]:
    """The text of every token id, as Transform numbers them: the specials, then the tokens.

    The most frequent come first, of equally frequent ones the last in the order of their bytes.

    Args:
        latex: the training formulas, tokens separated by spaces.
        min_count: tokens seen fewer times are left out.
    """
    counts = Counter(token for formula in latex for token in formula.split())
    kept = [token for token, count in counts.items() if count >= min_count]
    return [*SPECIAL_TEXTS, *sorted(kept, key=lambda token: (counts[token], token.encode()), reverse=True)]


# --- training ---------------------------------------------------------------------------------


class Clock:
    """The batches of each epoch and the seconds they took, validation left out; and Ctrl-C, at the end of a batch.

    A Ctrl-C is an exception wherever Python is just then; in a finaliser, or in what JAX calls back, it would get lost.
    """

    def __init__(self) -> None:
        self.interrupted = False
        signal.signal(signal.SIGINT, self._interrupt)
        self.begun = 0.0
        self.count = 0
        self.rates: list[float] = []  # batches a second, of each epoch

    def begin(self, epoch: int, logs: dict | None = None) -> None:
        self.begun, self.count = time.monotonic(), 0

    def batch(self, batch: int, logs: dict | None = None) -> None:
        self.count += 1
        if self.interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, *signal_and_frame: object) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def end(self, logs: dict | None = None) -> None:
        self.rates.append(self.count / (time.monotonic() - self.begun))


def _train(
    config: Config,
    vocabulary: list[str],
    training: list[Formula],
    validation: list[Formula],
    out: Path,
    deadline: float,
) -> tuple[Trained, dict]:
    """The trained model, also written to `out`, and what there is to say about its training."""
    import jax
    import keras

    from im2latex.weights import WEIGHTS
    from trainer_module.trained import Trained, save_weights
    from trainer_module.training import choose_precision, train, training_digest
    from trainer_module.weights import extended, new_model, warm_start, weights_of
    from trainer_module.widening import widened

    knobs = config.training
    start = _start(knobs.start_from) if knobs.start_from else None
    if start is not None:
        vocabulary = extended(vocabulary, start.vocabulary)

    def feed(source: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
        return prefetched((buckets.fill(batch, knobs.batch_size) for batch in source()), BATCHES_AHEAD)

    ids = {token: i for i, token in enumerate(vocabulary[SPECIALS:], SPECIALS)}
    learnt, watched = (
        [formula.numbered(ids) for formula in formulas if len(formula.latex.split()) <= knobs.max_tokens]
        for formulas in (training, validation)
    )
    if not learnt or not watched:
        raise UserError(f"a split has no formula of at most {knobs.max_tokens} tokens; raise training.max_tokens")
    sections = [dataclasses.asdict(section) for section in (config.image, config.model, config.training)]
    digest = training_digest(sections, vocabulary, [*learnt, *watched])
    buckets = Buckets([*learnt, *watched], max(1, min(SHAPES, len(learnt) // (BATCHES_PER_SHAPE * knobs.batch_size))))
    device = jax.devices()[0].device_kind
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("trainer_module").setLevel(logging.INFO)
    dtype = choose_precision(knobs, config.model, config.image, vocabulary, learnt)
    # keras.utils.set_random_seed also seeds TensorFlow, which it imports for that where it is installed.
    random.seed(knobs.seed)
    np.random.seed(knobs.seed)
    model = new_model(config.model, config.image, vocabulary, dtype)
    if start is not None:
        weights = widened(start, config.model, knobs.seed)
        fresh = warm_start(model, vocabulary, weights, start.vocabulary)
        say(f"started from {knobs.start_from}; new weights: {', '.join(fresh) or 'none'}")
    say(f"{model.count_params():,} parameters, {dtype}, on {device}, {len(buckets.shapes)} shapes to compile")
    clock = Clock()
    progress: Progress = train(
        model,
        knobs,
        learnt,
        watched,
        checkpoints=out / "checkpoints" / digest,
        feed=feed,
        cut=buckets.cut,
        deadline=deadline,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_begin=clock.begin, on_train_batch_end=clock.batch, on_test_begin=clock.end
            )
        ],
    )
    say(f"validation perplexity {progress.best:.4f}, the best of {progress.epoch} epochs")
    trained = Trained(config.model, config.image, vocabulary, knobs.max_tokens, weights_of(model))
    save_weights(out / WEIGHTS, trained)
    # Batches are not always full.
    images_per_batch = len(learnt) / len(buckets.cut(learnt, knobs.batch_size, 0, 0))
    rate = round(max(clock.rates) * images_per_batch, 1) if clock.rates else _rate_of(out, digest)
    return trained, {
        "run": digest,
        "examples": {"train": len(learnt), "eval": len(watched)},
        "vocabulary": len(vocabulary),
        "parameters": model.count_params(),
        "epochs": progress.epoch,
        "perplexities": progress.perplexities,
        "device": device,
        "precision": dtype,
        "shapes": len(buckets.shapes),
        # Of the fastest epoch: the first one compiles.
        "images_per_second": rate,
    }


def _start(name: str) -> Trained:
    """The model that a training is to start from."""
    from trainer_module import reader
    from trainer_module.trained import load_weights

    return reader.load() if name == reader.NAME else load_weights(Path(name))


def _rate_of(out: Path, digest: str) -> float | None:
    """The images a second that an earlier call of the same training measured, where one did."""
    try:
        metrics = json.loads((out / "metrics.json").read_text("utf-8"))
        return metrics["images_per_second"] if metrics["run"] == digest else None
    except (KeyError, OSError, TypeError, ValueError):
        return None


# --- judgement --------------------------------------------------------------------------------


def _judge(trained: Trained, validation: list[Formula], spelling: str, beam: int | None, out: Path) -> dict:
    """The scores on all validation examples; some of these are written to `out` with what was read.

    Formulas are compared in the spelling.
    """
    examples, targets = [formula.example for formula in validation], [formula.latex for formula in validation]
    metrics: dict[str, dict] = {}
    for name, width in (("greedy", 1), ("beam", beam)):
        if width is None:
            continue
        read = [(respell(latex, spelling), sure) for latex, sure in read_formulas(trained, examples, width)]
        metrics[name] = {"width": width, **scores(targets, [latex for latex, _ in read])}
        say("{}: BLEU {bleu:.4f}, exact match {exact_match:.4f}".format(name, **metrics[name]))
        if name == "greedy":
            (out / "predictions.txt").write_text(_samples(validation, read), "utf-8")
    return metrics


def read_formulas(trained: Trained, examples: Sequence[Example], width: int) -> list[tuple[str, float]]:
    """The likeliest formula of each image, and its natural log-probability, by beam search of such a width.

    `examples` are without tokens, so that their images alone decide on the shapes.
    """
    import jax
    import keras

    from trainer_module.decoding import search
    from trainer_module.weights import model_of

    model = model_of(trained)  # in float32, as it will be served

    @jax.jit
    def best(values: list, images: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The weights as arguments: XLA would fold constants.
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            decoded = search(model, images, sizes, trained.max_tokens, width)
        return decoded.tokens[:, 0], decoded.log_probability[:, 0]

    buckets = Buckets(examples, max(1, min(SHAPES, len(examples) // (BATCHES_PER_SHAPE * READ_AT_ONCE))))
    planned = buckets.cut(examples, READ_AT_ONCE, 0, 0)
    values = [variable.value for variable in model.variables]
    # Nothing waits for the device before all of it is asked for.
    answers = [
        best(values, batch.inputs["image"], batch.inputs["size"])
        for batch in prefetched((buckets.fill(b, READ_AT_ONCE) for b in batches(examples, planned)), BATCHES_AHEAD)
    ]
    read = [("", 0.0)] * len(examples)
    for indices, (tokens, log_probabilities) in zip(planned, answers, strict=True):
        for i, row, log_probability in zip(indices, np.array(tokens), np.array(log_probabilities), strict=False):
            read[i] = " ".join(trained.vocabulary[token] for token in row if token != PAD), float(log_probability)
    return read


def scores(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """The scores of the text, as the pipeline's Evaluator has them."""
    counted = np.array([text_statistics(*pair) for pair in zip(targets, predictions, strict=True)])
    total = counted.sum(axis=0)
    return {name: score.value(total[score.part]) for name, score in SCORES.items() if score.part.stop <= len(total)}


def _samples(formulas: Sequence[Formula], read: Sequence[tuple[str, float]]) -> str:
    """Some, from first to last: the image's name, right or wrong, log-probability, target and prediction."""
    text = ""
    for i in np.unique(np.linspace(0, len(read) - 1, SAMPLES).astype(int)):
        formula, (prediction, log_probability) = formulas[i], read[i]
        verdict = "right" if prediction.split() == formula.latex.split() else "wrong"
        text += f"{formula.name}  {verdict}  {log_probability:.4f}\n"
        text += f"  target      {formula.latex}\n  prediction  {prediction}\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
