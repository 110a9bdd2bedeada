"""What a server does, in a process of its own: loads a SavedModel and answers images.

    python -m components.serving_check.probe MODEL IMAGES LOADING_SECONDS ANSWERING_SECONDS

IMAGES is a JSON list of images in base64. Nothing but TensorFlow and NumPy is imported: the SavedModel has to stand
alone. It writes JSON lines, each as soon as it is known:

    {"seconds_to_load": 1.3}
    {"latex": ["x + y"], "log_probability": [-0.2], "seconds": 0.9}    the first image, to warm up
    {"latex": ["x + y"], "log_probability": [-0.2], "seconds": 0.03}   each image alone
    {"latex": ["x + y", ...], "log_probability": [...], "seconds": 1}  all images in one batch
    {"peak_memory": 512000000}                                         bytes

The exit status is 0 when all of that was written. After a failure the last line of stderr says why; a process that
takes longer than it may for loading, or for all answers, is ended by SIGALRM.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

SIGNATURE = "predict_images"
# The types and ranks of what it gives.
OUTPUTS = {"latex": ("string", 1), "log_probability": ("float32", 1)}


def main() -> None:
    """Does what the arguments say."""
    model, images_file, loading_seconds, answering_seconds = sys.argv[1:]
    images = [base64.b64decode(image) for image in json.loads(Path(images_file).read_bytes())]
    # The system's own response to the signal: a handler of Python would wait for a loop that never comes back to it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, float(loading_seconds))
    signature, seconds = load(model)
    signal.setitimer(signal.ITIMER_REAL, float(answering_seconds))
    _tell({"seconds_to_load": seconds})
    for batch in (images[:1], *([image] for image in images), images):
        _tell(answer(signature, batch))
    _tell({"peak_memory": _peak_memory()})


def load(model: str) -> tuple[Any, float]:
    """The signature of a SavedModel that reads images, and the seconds that loading took.

    Raises:
        SystemExit: the model has not this signature, or it gives something else; says so.
    """
    import tensorflow as tf  # here, because it may hang as well, and only now the alarm is set

    started = time.perf_counter()
    signatures = tf.saved_model.load(model).signatures
    seconds = time.perf_counter() - started
    if SIGNATURE not in signatures:
        sys.exit(f"there is no signature {SIGNATURE} among {', '.join(sorted(signatures)) or 'none at all'}")
    signature = signatures[SIGNATURE]
    given = {name: (spec.dtype.name, spec.shape.rank) for name, spec in signature.structured_outputs.items()}
    for name, (dtype, rank) in OUTPUTS.items():
        if given.get(name) != (dtype, rank):
            sys.exit(f"{SIGNATURE} has to give {name} as {dtype} of rank {rank}, and gives {given}")
    return signature, seconds


def answer(signature: Any, images: list[bytes]) -> dict[str, Any]:
    """The answer to a batch of encoded images, as the probe tells it; the seconds are those from bytes to text.

    Raises:
        UnicodeDecodeError: an answer is not UTF-8.
    """
    import tensorflow as tf

    started = time.perf_counter()
    got = signature(images=tf.constant(images))
    latex, log_probability = (got[name].numpy().tolist() for name in OUTPUTS)
    seconds = time.perf_counter() - started
    return {"latex": [text.decode("utf-8") for text in latex], "log_probability": log_probability, "seconds": seconds}


def _peak_memory() -> int:
    """The most memory this process held, bytes.

    Not of getrusage, which begins with what the process that started this one holds.
    """
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


def _tell(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001  a damaged model can raise nearly anything
        traceback.print_exc()
        # TensorFlow's messages have many lines.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
