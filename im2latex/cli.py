"""The `im2latex` command. It runs `predict` itself and passes other commands to the pipeline, if that is installed.

Heavy imports are inside functions, so that a command imports only what it needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from im2latex import __version__, help
from im2latex.errors import UserError
from im2latex.models import choose, is_saved_model_alone

# Entry point group under which the pipeline registers its command.
PLUGINS = "im2latex.commands"
# Exit status after Ctrl-C.
INTERRUPTED = 130
MOST_ALTERNATIVES = 32


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
        given = _parser().parse_args(arguments)
        choice = choose(given.model)
        if not is_saved_model_alone(choice.path):
            from im2latex.command import predict_images
            from im2latex.reader import Reader

            if choice.sentence:
                print(choice.sentence, file=sys.stderr)
            reader = Reader(choice.path)
            try:
                status = predict_images(given.images, reader, given.alternatives, given.clean, given.json)
                sys.stdout.flush()
            except OSError as error:
                # Otherwise Python would flush standard output again at exit, and fail again.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise UserError(f"the answer cannot be written to standard output ({error.strerror})") from None
            return status
    whole = _pipeline()
    if whole is None:
        return _alone(arguments)
    whole()
    return 0


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
        "'im2latex[pipeline]'; without it there is `im2latex predict`"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="im2latex", description=help.IM2LATEX)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    predict = commands.add_parser("predict", help=help.PREDICT, description=f"{help.PREDICT} {help.PREDICT_STATUS}")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help=help.IMAGE)
    predict.add_argument("--model", metavar="DIR", help=help.MODEL)
    predict.add_argument("--clean", action="store_true", help=help.CLEAN)
    predict.add_argument("--alternatives", type=_count, metavar="COUNT", help=help.ALTERNATIVES)
    predict.add_argument("--json", action="store_true", help=help.JSON)
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_ALTERNATIVES):
        raise argparse.ArgumentTypeError(f"{text[:20]} is no number from 1 to {MOST_ALTERNATIVES}")
    return int(text)
