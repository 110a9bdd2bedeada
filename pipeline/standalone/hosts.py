"""Several hosts that train one model together: they find each other, share every batch, and end together.

Each host is a process that reads its share of every batch. Keras copies the model to all GPUs of all hosts
(`keras.distribution.DataParallel`), and JAX adds up the gradients.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data.parallel import end_with_parent
from im2latex.errors import UserError
from pipeline.standalone import say

FAILED = 1
# The variables that Kubeflow Trainer's JAX runtime sets.
COORDINATOR, HOSTS, HOST = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# How long a host waits for the others, which may still read the data or pull their image.
SECONDS_TO_JOIN = 1800
# How JAX's errors begin if another host does not answer.
_LOST = ("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE", "UNKNOWN")
MOST_OF_A_REASON = 200  # characters of JAX's error in a sentence
_CONTINUES = "give the same command on all hosts to continue from the last checkpoint"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The hosts of a training, as one of them sees them."""

    count: int = 1
    host: int = 0  # number of this host
    coordinator: str = ""  # HOST:PORT of host 0

    def __str__(self) -> str:
        return f"host {self.host} of {self.count}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which host of how many this one is."""
    group = parser.add_argument_group(
        "several hosts",
        f"Give the same command on all hosts, but for --host. Defaults: {COORDINATOR}, {HOSTS} and {HOST}.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of host 0, with a free port")
    group.add_argument("--hosts", type=int, metavar="N", help="number of hosts")
    group.add_argument("--host", type=int, metavar="I", help="number of this host, from 0")


def chosen_hosts(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Hosts:
    """Returns the hosts of the options, or of the environment.

    Raises:
        UserError: an option is missing or wrong.
    """

    def number(name: str, value: int | None, variable: str, default: int) -> int:
        if value is not None:
            return value
        try:
            return int(environment.get(variable, default))
        except ValueError:
            raise UserError(f"{variable} is {environment[variable]!r}; set it to a number, or give {name}") from None

    count = number("--hosts", arguments.hosts, HOSTS, 1)
    host = number("--host", arguments.host, HOST, 0 if count == 1 else -1)
    coordinator = arguments.coordinator or environment.get(COORDINATOR, "")
    if count < 1:
        raise UserError(f"--hosts is {count}; give the number of hosts, 1 or more")
    if not 0 <= host < count:
        problem = "is missing" if host == -1 else f"is {host}"
        raise UserError(f"--host {problem}; give each of the {count} hosts its number, 0 to {count - 1}")
    if count > 1 and not re.fullmatch(r"[^\s:]+:\d+|\[[0-9a-fA-F:]+\]:\d+", coordinator):
        problem = f"is {coordinator!r}" if coordinator else "is missing"
        raise UserError(f"--coordinator {problem}; give the address of host 0, HOST:PORT, to all hosts")
    return Hosts(count, host, coordinator)


def join(hosts: Hosts, batch_size: int) -> int:
    """Waits for the other hosts. Call it before anything else uses JAX.

    Returns:
        The number of GPUs, or other devices, of all hosts.

    Raises:
        UserError: the devices cannot share a batch equally.
    """
    import jax

    if hosts.count > 1:
        say(f"{hosts}: waiting for the others at {hosts.coordinator}")
        # Without it, hosts that have CPUs only cannot exchange anything.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Not keras.distribution.initialize, which imports TensorFlow to seed it too, if it is installed.
        jax.distributed.initialize(hosts.coordinator, hosts.count, hosts.host, initialization_timeout=SECONDS_TO_JOIN)
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        counts = ", ".join(f"host {host} has {count}" for host, count in sorted(devices.items()))
        raise _error_of_all(f"the hosts have different numbers of devices ({counts}); use equal ones")
    if batch_size % devices.total():
        raise _error_of_all(
            f"{devices.total()} devices cannot share a batch of {batch_size} equally; "
            f"set training.batch_size to a multiple of {devices.total()}"
        )
    return devices.total()


def distribute() -> None:
    """Makes Keras copy the models that are made from now on to all devices of all hosts."""
    import keras

    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def leave(hosts: Hosts) -> None:
    """Ends the work together: from now on each host, and each model, is alone."""
    import jax
    import keras

    keras.distribution.set_distribution(None)
    if hosts.count > 1:
        _finish_computations()
        jax.distributed.shutdown()


def agreed(value: float) -> float:
    """Returns what host 0 passes, as float32; all hosts must call this together."""
    return float(_gathered(np.float32(value))[0])


def check_same(what: str, text: str) -> None:
    """Checks that all hosts pass the same text; all hosts must call this together.

    Raises:
        UserError: they do not.
    """
    digests = _gathered(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32))
    if others := [str(host) for host, digest in enumerate(digests) if (digest != digests[0]).any()]:
        raise _error_of_all(
            f"host {', '.join(others)} and host 0 have different {what}; "
            "give all hosts the same data, settings and options, and an --out that they share"
        )


def _error_of_all(sentence: str) -> UserError:
    """Returns an error that all hosts raise at this point."""
    import jax

    if jax.process_count() > 1:
        jax.distributed.shutdown()  # or the end of the first host would abort those that have not printed it yet
    return UserError(sentence)


def _gathered(value: np.ndarray | np.float32) -> np.ndarray:
    """Returns the values of all hosts, (hosts, ...)."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return np.asarray(value)[np.newaxis]
    _finish_computations()
    return multihost_utils.process_allgather(value)


def _finish_computations() -> None:
    """Waits for this host's computations, which JAX only starts.

    On CPUs, an exchange that starts while another is under way may meet that one on another host, and a host that ends
    breaks an exchange that others have not finished.
    """
    import jax

    jax.block_until_ready([array for array in jax.live_arrays() if not array.is_deleted()])


def run_host(hosts: Hosts, work: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Runs the work of one of several hosts in a child process, because JAX aborts a process that has lost the others.

    Args:
        hosts: the hosts.
        work: a function of this project that returns an exit status.
        argv: its argument.

    Returns:
        The exit status.
    """
    # Python would warn of the semaphores that an aborted child leaves, and remove them.
    sys.warnoptions.append("ignore:resource_tracker")
    child = multiprocessing.get_context("spawn").Process(target=_work, args=(hosts, work, argv))
    child.start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child as well, which says so
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    child.join()
    status = child.exitcode or 0
    if status >= 0:
        return status
    if status == -signal.SIGABRT:
        _tell(f"{hosts} has lost another host, or did not reach it at {hosts.coordinator}; {_CONTINUES}")
    else:
        _tell(f"{hosts} was ended by {signal.Signals(-status).name}; {_CONTINUES}")
    return FAILED


def _work(hosts: Hosts, work: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> None:
    end_with_parent()
    import jax

    status = FAILED
    try:
        status = work(argv)
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # a transfer between arrays raises ValueError
        if str(error).startswith(_LOST):
            reason = re.sub(r"(Error dispatching computation: %s)+", "", str(error)).partition("\n")[0]
            _tell(f"{hosts} has lost another host ({reason[:MOST_OF_A_REASON]}); {_CONTINUES}")
        else:
            traceback.print_exc()
    except Exception:
        traceback.print_exc()
    gc.collect()  # the worker processes' semaphores, of which Python would say that they leaked
    sys.stdout.flush()
    # At once: the usual end would wait for the other hosts, some of which may be gone.
    os._exit(status)


def _tell(sentence: str) -> None:
    print(f"im2latex: {sentence}", file=sys.stderr, flush=True)
