"""Notifies the operator of failed runs and rejected models, by a command, a webhook, or both.

Environment variables name them: IM2LATEX_NOTIFY_COMMAND gets the message as JSON on its standard input;
IM2LATEX_NOTIFY_WEBHOOK is an address that the JSON is posted to.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from im2latex.errors import UserError

COMMAND, WEBHOOK = "IM2LATEX_NOTIFY_COMMAND", "IM2LATEX_NOTIFY_WEBHOOK"
FAILED, REJECTED = "failed", "rejected"
# Timeout of each.
SECONDS = 30


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Checks the address of the webhook before there is anything to send.

    Raises:
        UserError: it is not an address.
    """
    address = environment.get(WEBHOOK, "")
    if address and not address.startswith(("http://", "https://")):
        raise UserError(f"{WEBHOOK} is {address!r}, but has to start with http:// or https://")


def notify(source: str, outcome: str, sentence: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Sends a notification to each configured receiver.

    Args:
        source: what failed or was rejected: the name of a pipeline, or a component.
        outcome: `FAILED` or `REJECTED`.
        sentence: why.
        environment: the environment variables.

    Returns:
        A sentence for each receiver that failed.
    """
    message = json.dumps({
        "source": source,
        "outcome": outcome,
        "text": sentence,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
    }, ensure_ascii=False)  # fmt: skip
    problems = []
    if command := environment.get(COMMAND, ""):
        problems.append(_run(command, message))
    if address := environment.get(WEBHOOK, ""):
        problems.append(_post(address, message))
    return [problem for problem in problems if problem]


def _run(command: str, message: str) -> str:
    try:
        arguments = shlex.split(command)
        done = subprocess.run(arguments, input=message, text=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    except (OSError, ValueError) as error:
        return f"{COMMAND} cannot be run ({getattr(error, 'strerror', None) or error})"
    except subprocess.TimeoutExpired:
        return f"{COMMAND} took longer than {SECONDS} s"
    return f"{COMMAND} ended with status {done.returncode}" if done.returncode else ""


def _post(address: str, message: str) -> str:
    request = urllib.request.Request(address, message.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return ""
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(error, urllib.error.HTTPError):
            return f"{WEBHOOK} answered with {error.code} {reason}"
        return f"{WEBHOOK} cannot be reached ({reason})"
