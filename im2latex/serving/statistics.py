"""Histograms of the pictures that the service received, for /statistics and Prometheus; it keeps no pictures."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from im2latex.drift import compare, thresholds
from im2latex.reading import Hypothesis
from im2latex.serving.models import Served
from im2latex.statistics import FEATURES, OF_REQUESTS, Statistics, add_picture, empty, to_document


class ServingStatistics(Collector):
    """Histograms of the pictures that the serving version has read. Threads may use it at the same time.

    The counts start again when another version serves, because its answers have another confidence.

    Args:
        served: returns the serving version.
    """

    def __init__(self, served: Callable[[], Served]) -> None:
        self._served = served
        self._lock = threading.Lock()
        self._restart(served().folder)

    def add(self, served: Served, images: Sequence[np.ndarray | None], answers: Sequence[Sequence[Hypothesis]]) -> None:
        """Counts pictures that were read.

        Args:
            served: the version that read them; if another one serves by now, they are not counted.
            images: the normalised pictures, uint8 (height, width); None for a blank one.
            answers: the hypotheses for each picture, best first.
        """
        with self._lock:
            if served.folder != self._current().folder:
                return
            for pixels, (best, *_) in zip(images, answers, strict=True):
                if pixels is None:
                    self._blank += 1
                    continue
                add_picture(self._statistics, pixels)
                self._statistics["length"].add(best.latex.count(" ") + 1 if best.latex else 0)
                self._statistics["confidence"].add(best.probability)

    def document(self) -> dict[str, Any]:
        """Returns the counts, and those of the model's training data, as an object for JSON."""
        with self._lock:
            served = self._current()
            return {
                "version": str(served.version),
                "since": self._since,
                "until": _now(),
                "pictures": self._statistics["width"].count,
                "blank": self._blank,
                "training": to_document(served.reader.statistics),
                "serving": to_document(self._statistics),
            }

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics for Prometheus: a histogram for each feature, and distances from the training data."""
        with self._lock:
            training, serving = self._current().reader.statistics, self._statistics
            for name, histogram in serving.items():
                feature, total = FEATURES[name], 0
                buckets = []
                for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
                    total += count
                    buckets.append((floatToGoString(bound), total))
                metric = f"im2latex_serving_{name}_{feature.unit}"
                yield HistogramMetricFamily(metric, f"{feature.help}.", buckets=buckets, sum_value=histogram.sum)
            bounds = GaugeMetricFamily(
                "im2latex_drift_threshold", "Largest distance that is not drift.", labels=["feature"]
            )
            distances = GaugeMetricFamily(
                "im2latex_drift_distance",
                "Distance between the pictures that were read and the training examples, 0 to 1.",
                labels=["feature"],
            )
            for comparison in compare(training, serving, thresholds(OF_REQUESTS)):
                bounds.add_metric([comparison.feature], comparison.threshold)
                distances.add_metric([comparison.feature], comparison.distance)
            yield distances
            yield bounds

    def _current(self) -> Served:
        """Returns the serving version; if it is another one than before, the counts start again."""
        served = self._served()
        if served.folder != self._folder:
            self._restart(served.folder)
        return served

    def _restart(self, folder: Path) -> None:
        self._folder = folder
        self._since = _now()
        self._blank = 0
        self._statistics: Statistics = empty(*OF_REQUESTS)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
