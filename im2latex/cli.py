"""The `im2latex` command. It runs `predict`, `serve` and `monitor` itself; the pipeline, if installed, runs the others.

Heavy imports are inside functions, so that a command imports only what it needs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from im2latex import __version__, help
from im2latex.errors import UserError
from im2latex.models import choose, is_saved_model_alone, pushed, readable_file, workspace
from im2latex.serving.limits import options
from im2latex.serving.logs import FORMATS as LOG_FORMATS

# Entry point group under which the pipeline registers its command.
PLUGINS = "im2latex.commands"
# Exit statuses after Ctrl-C, and for a wrong command line.
INTERRUPTED = 130
WRONG_USAGE = 2
MOST_ALTERNATIVES = 32
HOST, PORT = "127.0.0.1", 8501


def main() -> None:
    """Runs the command and exits. Prints user errors as one sentence on stderr."""
    try:
        sys.exit(run(sys.argv[1:]))
    except UserError as error:
        print(f"im2latex: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("im2latex: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def run(arguments: Sequence[str]) -> int:
    """Runs a command and returns the exit status.

    Args:
        arguments: the command line, without the program's name.

    Raises:
        UserError: the command failed for a reason that the user can correct.
    """
    if arguments[:1] == ["predict"]:
        options = _parser().parse_args(arguments)
        choice = choose(options.model)
        if not is_saved_model_alone(choice.path):
            from im2latex.command import predict_images
            from im2latex.reader import Reader

            if choice.sentence:
                print(choice.sentence, file=sys.stderr)
            return predict_images(
                options.images,
                Reader(choice.path),
                options.alternatives,
                options.clean,
                options.json,
                options.min_confidence,
            )
    if arguments[:1] == ["serve"]:
        serve(**vars(_parser().parse_args(arguments)))
        return 0
    if arguments[:1] == ["monitor"]:
        from im2latex.monitor import monitor

        options = _parser().parse_args(arguments)
        return monitor(options.url, options.statistics, options.since, options.threshold or (), options.json)
    pipeline = _pipeline()
    if pipeline is None:
        return _alone(arguments)
    pipeline()
    return 0


def serve(
    model: str | None,
    host: str,
    port: int,
    allow_host: Sequence[str] | None,
    log_format: str,
    collect: Path | None,
    **limits: float,
) -> None:
    """`im2latex serve`: serves the model that is named, or always the newest.

    Args:
        model, host, port, allow_host, log_format, collect: as `im2latex serve --help` says.
        limits: fields of `im2latex.serving.limits.Limits`.

    Raises:
        UserError: no model works, the address cannot be had, or corrections cannot be saved.
    """
    from im2latex.serving import server
    from im2latex.serving.limits import Limits

    choice = choose(model)
    if model is not None:
        readable_file(choice.path)

    def versions() -> list[Path]:
        return pushed(workspace() / "serving") if model is None else []

    def folders() -> list[Path]:
        return versions() or [choice.path]

    if not versions() and choice.sentence:
        print(choice.sentence, file=sys.stderr)

    bounds = Limits(**limits)  # type: ignore[arg-type]
    server.serve(folders, host, port, allow_host or (), log_format, bounds, collect)


def _pipeline() -> Callable[[], None] | None:
    """Returns the pipeline's command, or None if the pipeline is not installed."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=PLUGINS):
        command: Callable[[], None] = entry.load()
        return command
    return None


def _alone(arguments: Sequence[str]) -> int:
    """Handles arguments that need the pipeline, which is not installed: --version, help, or an error."""
    from importlib.metadata import version
    from platform import python_version

    if "--version" in arguments[:1]:
        print(f"im2latex {__version__}, onnxruntime {version('onnxruntime')}, Python {python_version()}")
        return 0
    if not arguments or arguments[0].startswith("-"):
        _parser().parse_args([*arguments, "--help"])
    if arguments[0] == "predict":
        raise UserError(
            "this model is a SavedModel without an ONNX file; install the pipeline, which reads it with TensorFlow: "
            "pip install 'im2latex[pipeline]'"
        )
    raise UserError(
        f"`im2latex {arguments[0]}` is a command of the pipeline, which is not installed: pip install "
        "'im2latex[pipeline]'; without it there are `im2latex predict`, `serve` and `monitor`"
    )


class _Parser(argparse.ArgumentParser):
    """A parser that prints usage errors as one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"im2latex: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Also reports unknown options, so that a command reports its own and not the main parser."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            kind = "option" if unknown[0].startswith("-") else "argument"
            self.error(f"no such {kind}: {unknown[0]}")
        return parsed, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="im2latex", description=help.IM2LATEX)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    predict = commands.add_parser("predict", help=help.PREDICT, description=f"{help.PREDICT} {help.PREDICT_STATUS}")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help=help.IMAGE)
    predict.add_argument("--model", metavar="DIR", help=help.MODEL)
    predict.add_argument("--clean", action="store_true", help=help.CLEAN)
    predict.add_argument("--alternatives", type=_integer(1, MOST_ALTERNATIVES), metavar="COUNT", help=help.ALTERNATIVES)
    predict.add_argument("--min-confidence", type=_number(0, 1), default=0.0, metavar="P", help=help.MIN_CONFIDENCE)
    predict.add_argument("--json", action="store_true", help=help.JSON)
    served = commands.add_parser("serve", help=help.SERVE, description=f"{help.SERVE} {help.SERVE_SIGNALS}")
    served.add_argument("--host", default=HOST, metavar="TEXT", help=f"{help.HOST} Default: {HOST}.")
    port = f"{help.PORT} Default: {PORT}."
    served.add_argument("--port", type=_integer(0, 65535), default=PORT, metavar="INTEGER", help=port)
    served.add_argument("--model", metavar="DIR", help=help.SERVED_MODEL)
    served.add_argument("--allow-host", action="append", metavar="NAME", help=help.ALLOW_HOST)
    served.add_argument("--log-format", choices=LOG_FORMATS, default=LOG_FORMATS[0], help=help.LOG_FORMAT)
    served.add_argument("--collect", type=Path, metavar="DIR", help=help.COLLECT)
    for option in options():
        parse = _integer(1) if isinstance(option.default, int) else _number(0, 999_999)
        text = f"{option.help} Default: {option.default:,.12g}."
        served.add_argument(option.flag, type=parse, default=option.default, metavar=option.metavar, help=text)
    monitored = commands.add_parser("monitor", help=help.MONITOR, description=f"{help.MONITOR} {help.MONITOR_STATUS}")
    monitored.add_argument("--url", metavar="URL", help=f"{help.URL} Default: {help.ADDRESS}.")
    monitored.add_argument("--statistics", metavar="FILE", help=help.STATISTICS)
    monitored.add_argument("--since", metavar="FILE", help=help.SINCE)
    monitored.add_argument("--threshold", action="append", metavar="FEATURE=DISTANCE", help=help.THRESHOLD)
    monitored.add_argument("--json", action="store_true", help=help.MONITOR_JSON)
    return parser


def _integer(least: int, most: int = 10**12) -> Callable[[str], int]:
    """Returns a parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        number = int(text[:19]) if text.isascii() and text.isdecimal() else least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text[:20]} is not a whole number from {least:,} to {most:,}")
        return number

    return parse


def _number(least: float, most: float) -> Callable[[str], float]:
    """Returns a parser of numbers from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:  # also catches NaN
            raise argparse.ArgumentTypeError(f"{text[:20]} is not a number from {least:,g} to {most:,g}")
        return number

    return parse
