"""A probe that loads a SavedModel and reads images with it, as a server does. It runs in its own process.

    python -m components.serving_check.probe MODEL IMAGES LOADING_SECONDS ANSWERING_SECONDS

IMAGES is a file with a JSON list of images in base64. The probe imports TensorFlow and NumPy only, to prove that the
SavedModel needs nothing else. It prints JSON lines, each as soon as it is known:

    {"seconds_to_load": 1.3}
    {"latex": ["x + y"], "log_probability": [-0.2], "seconds": 0.9}    the first image, to warm up
    {"latex": ["x + y"], "log_probability": [-0.2], "seconds": 0.03}   each image alone
    {"latex": ["x + y", ...], "log_probability": [...], "seconds": 1}  all images in one batch
    {"peak_memory": 512000000}                                         bytes

The exit status is 0 if all of these lines were printed. After a failure the last line of stderr says why. A process
that exceeds the time limit for loading, or that for all answers, is killed by SIGALRM.
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
# dtype and rank of the signature's outputs.
OUTPUTS = {"latex": ("string", 1), "log_probability": ("float32", 1)}


def main() -> None:
    """Runs the probe."""
    model, images_file, loading_seconds, answering_seconds = sys.argv[1:]
    images = [base64.b64decode(image) for image in json.loads(Path(images_file).read_bytes())]
    # The default action kills the process at once. A Python handler would not run while native code hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, float(loading_seconds))
    signature, seconds = load(model)
    signal.setitimer(signal.ITIMER_REAL, float(answering_seconds))
    _print_event({"seconds_to_load": seconds})
    for batch in (images[:1], *([image] for image in images), images):
        _print_event(answer(signature, batch))
    _print_event({"peak_memory": _peak_memory()})


def load(model: str) -> tuple[Any, float]:
    """Loads a SavedModel.

    Returns:
        The signature `predict_images`, and the load time in seconds.

    Raises:
        SystemExit: the model lacks the signature, or its outputs have other types; the message says which.
    """
    import tensorflow as tf  # imported here, because it may hang too, and the alarm is set by now

    started = time.perf_counter()
    signatures = tf.saved_model.load(model).signatures
    seconds = time.perf_counter() - started
    if SIGNATURE not in signatures:
        sys.exit(f"there is no signature {SIGNATURE} among {', '.join(sorted(signatures)) or 'none at all'}")
    signature = signatures[SIGNATURE]
    outputs = {name: (spec.dtype.name, spec.shape.rank) for name, spec in signature.structured_outputs.items()}
    for name, (dtype, rank) in OUTPUTS.items():
        if outputs.get(name) != (dtype, rank):
            sys.exit(f"{SIGNATURE} has to give {name} as {dtype} of rank {rank}, and gives {outputs}")
    return signature, seconds


def answer(signature: Any, images: list[bytes]) -> dict[str, Any]:
    """Reads a batch of encoded images. Returns the line to print; `seconds` is the time from bytes to text.

    Raises:
        UnicodeDecodeError: an answer is not UTF-8.
    """
    import tensorflow as tf

    started = time.perf_counter()
    outputs = signature(images=tf.constant(images))
    latex, log_probability = (outputs[name].numpy().tolist() for name in OUTPUTS)
    seconds = time.perf_counter() - started
    return {"latex": [text.decode("utf-8") for text in latex], "log_probability": log_probability, "seconds": seconds}


def _peak_memory() -> int:
    """Returns the peak resident memory of this process, bytes.

    It does not use getrusage, whose maximum includes the memory of the parent process before exec.
    """
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


def _print_event(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001  a damaged model can raise nearly anything
        traceback.print_exc()
        # TensorFlow's messages have many lines.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
