from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ENDS_SECONDS = 30
PARENT = """
import os, time
from data.parallel import ordered_map

def slow(number):
    time.sleep(0.05)
    return os.getpid()

if __name__ == "__main__":
    for pid in ordered_map(slow, range(10000), workers=2):
        print(pid, flush=True)
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], set[int]]:
    """Starts a process with workers; returns it and its workers once they are working."""
    program = folder / "parent.py"
    program.write_text(PARENT, "utf-8")
    parent = subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert parent.stdout is not None
    workers = {int(parent.stdout.readline()) for _ in range(20)}
    assert all(alive(worker) for worker in workers)
    return parent, workers


def still_there(workers: set[int]) -> list[int]:
    """Returns the workers that have not ended in time, and kills them."""
    deadline = time.monotonic() + ENDS_SECONDS
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [worker for worker in workers if alive(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    return left


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_only_the_parent_handles_ctrl_c(tmp_path: Path) -> None:
    parent, workers = started(tmp_path)
    os.killpg(parent.pid, signal.SIGINT)
    _, output = parent.communicate(timeout=ENDS_SECONDS)
    assert output.count("Traceback") == output.count("KeyboardInterrupt") == 1, output  # Python's own answer
    assert not still_there(workers)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent, workers = started(tmp_path)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert not still_there(workers)


WITHOUT_MAIN = """
import math, os
from data.parallel import ProcessPool

print("imported", flush=True)

if __name__ == "__main__":
    with ProcessPool(1, with_main=False) as pool:
        print(list(pool.map(math.factorial, range(9))), flush=True)
"""


def test_workers_need_not_import_the_main_module(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(WITHOUT_MAIN, "utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout == "imported\n[1, 1, 2, 6, 24, 120, 720, 5040, 40320]\n"
