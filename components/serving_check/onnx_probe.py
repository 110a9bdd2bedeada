"""A probe that reads images with a model's ONNX file, as a program without TensorFlow does. It runs in its own process.

    python -m components.serving_check.onnx_probe MODEL IMAGES

MODEL is the ONNX file, IMAGES a file with a JSON list of images in base64. It prints a JSON list of their LaTeX, in the
same order.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from im2latex.reader import Reader


def main() -> None:
    """Runs the probe."""
    model, images_file = sys.argv[1:]
    images = [base64.b64decode(image) for image in json.loads(Path(images_file).read_bytes())]
    print(json.dumps([reading.latex for reading in Reader(model).predict(images)]))


if __name__ == "__main__":
    main()
