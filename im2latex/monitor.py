"""The command `im2latex monitor`: compares the pictures of a service with the training examples of its model."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from im2latex.drift import Comparison, compare, drifted, thresholds
from im2latex.errors import UserError
from im2latex.help import ADDRESS
from im2latex.statistics import FEATURES, OF_REQUESTS, Histogram, Statistics, from_document

PATH = "/statistics"
STANDARD_INPUT = "-"
# Exit status if something has drifted; as for other commands that compare.
DIFFERS = 4
SECONDS = 30
_MOST_BYTES = 2**20
_COLUMNS = ("feature", "training", "serving", "distance", "threshold", "status")


class Monitored(NamedTuple):
    """The comparison of a service's pictures with the training examples of its model.

    Attributes:
        version: the version that serves.
        since: time since which it counts, UTC.
        pictures: number of pictures that are compared, without blank ones.
        comparisons: of the features that both have; empty if the pictures are too few.
    """

    version: str
    since: str
    pictures: int
    comparisons: list[Comparison]

    @property
    def drifted(self) -> list[Comparison]:
        """The comparisons whose distance is above the threshold."""
        return drifted(self.comparisons)

    @property
    def sentences(self) -> list[str]:
        """What is compared, and whether it is enough to compare."""
        pictures = "1 picture" if self.pictures == 1 else f"{self.pictures:,} pictures"
        sentences = [f"version {self.version} has read {pictures} since {self.since}"]
        if not self.comparisons:
            sentences.append(f"too few to compare: {FEATURES['width'].least} are needed")
        return sentences

    def rows(self) -> list[tuple[str, ...]]:
        """The comparisons as text: feature, both means, distance, threshold, status."""
        return [
            (
                one.feature,
                f"{one.reference:.4g}",
                f"{one.current:.4g}",
                f"{one.distance:.3f}",
                f"{one.threshold:g}",
                one.status,
            )
            for one in self.comparisons
        ]

    def document(self) -> dict[str, Any]:
        """The same as an object for JSON."""
        compared = [{**one._asdict(), "status": one.status} for one in self.comparisons]
        status = ("drifted" if self.drifted else "ok") if compared else "too few"
        return {**self._asdict(), "status": status, "comparisons": compared}


def monitor(
    url: str | None, statistics: str | None, before: str | None, threshold: Sequence[str], as_json: bool
) -> int:
    """Prints the comparison of a service's pictures with the training examples of its model.

    Args:
        url: address of the service; None for `ADDRESS`, if there is no file.
        statistics: file with a response of the service's /statistics, or - for standard input, instead of an address.
        before: file with an earlier response: only pictures after it are compared.
        threshold: thresholds that differ from the default, as FEATURE=DISTANCE.
        as_json: print a JSON object instead of a table.

    Returns:
        The exit status: 0, or `DIFFERS` if a feature has drifted.

    Raises:
        UserError: the service or file cannot be read, the model has no statistics, or a threshold is wrong.
    """
    if url and statistics:
        raise UserError("give either --url or --statistics, not both")
    at_most = with_thresholds(threshold)
    source = statistics or _address(url or ADDRESS)
    result = monitored(answer_of(source), at_most, answer_of(before) if before else None)
    if as_json:
        print(json.dumps(result.document()))
    else:
        print("\n".join([*result.sentences, *(_aligned([_COLUMNS, *result.rows()]) if result.comparisons else ())]))
    return DIFFERS if result.drifted else 0


def with_thresholds(changes: Sequence[str]) -> dict[str, float]:
    """Returns the thresholds by feature: the defaults, changed by FEATURE=DISTANCE.

    Raises:
        UserError: there is no such feature, or the distance is not a number above 0 and at most 1.
    """
    by_feature = thresholds(OF_REQUESTS)
    for text in changes:
        name, _, value = text.partition("=")
        if name not in by_feature:
            raise UserError(f"--threshold: there is no feature {name!r:.80}; there are {', '.join(by_feature)}")
        try:
            by_feature[name] = float(value)
        except ValueError:
            by_feature[name] = 0.0
        if not 0 < by_feature[name] <= 1:
            raise UserError(f"--threshold: {name} takes a number above 0 and at most 1, not {value!r:.80}")
    return by_feature


def monitored(
    answer: Mapping[str, Any], at_most: Mapping[str, float], before: Mapping[str, Any] | None = None
) -> Monitored:
    """Compares the pictures of a service with the training examples of its model.

    Args:
        answer: of the service's /statistics.
        at_most: threshold by feature.
        before: an earlier answer, which is subtracted. It is ignored if the service has started to count again since.

    Raises:
        UserError: an answer is no such document, or the model has no statistics.
    """
    version, since, training, serving = _parsed(answer)
    if not training:
        raise UserError(
            f"version {version} has no statistics of its training examples, because an older im2latex trained it; "
            "add them with `im2latex export --training-data`, or train a new model"
        )
    if before is not None:
        earlier_version, earlier_since, _, earlier = _parsed(before)
        if (earlier_version, earlier_since) == (version, since):
            serving = {name: _after(histogram, earlier.get(name)) for name, histogram in serving.items()}
            since = str(before.get("until", since))
    pictures = serving["width"].count if "width" in serving else 0
    return Monitored(version, since, pictures, compare(training, serving, at_most))


def answer_of(source: str) -> dict[str, Any]:
    """Reads what a service's /statistics answered: from the address of the service, a file, or - for standard input.

    Raises:
        UserError: there is no answer, or it is not JSON.
    """
    if "://" in source:
        source = _address(source)
        content = _fetched(source)
    elif source == STANDARD_INPUT:
        content = sys.stdin.buffer.read(_MOST_BYTES)
    else:
        try:
            with open(source, "rb") as file:
                content = file.read(_MOST_BYTES)
        except OSError as error:
            raise UserError(
                f"{source} cannot be read ({error.strerror}); name a file with an answer of {PATH}"
            ) from None
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UserError(f"{source} is not what `im2latex serve` answers at {PATH}: it is not a JSON object")
    return document


def _address(url: str) -> str:
    """Returns the address of the statistics of a service."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        parts = urllib.parse.SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"{url} is not the address of a service, such as {ADDRESS}")
    return url if parts.path.endswith(PATH) else url.rstrip("/") + PATH


def _fetched(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as response:
            return response.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        raise UserError(f"{address} answers {error.code}; is this the address of `im2latex serve`?") from None
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise UserError(f"{address} cannot be read ({reason}); is `im2latex serve` running there?") from None


def _parsed(answer: Mapping[str, Any]) -> tuple[str, str, Statistics, Statistics]:
    """Returns the version, the time since which it counts, and the statistics of training and of serving."""
    try:
        version, since = answer["version"], answer["since"]
        return str(version), str(since), from_document(answer["training"]), from_document(answer["serving"])
    except KeyError as error:
        raise UserError(f"this is not what `im2latex serve` answers at {PATH}: it has no {error}") from None
    except ValueError as error:
        raise UserError(f"this is not what `im2latex serve` answers at {PATH}: {error}") from None


def _after(now: Histogram, before: Histogram | None) -> Histogram:
    if before is None:
        return now
    counts = [max(0, count - earlier) for count, earlier in zip(now.counts, before.counts, strict=True)]
    return Histogram(now.bounds, counts, now.sum - before.sum)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the rows of a table with the first and last column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *numbers, last in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, last]))
    return lines
