"""The statistics of the pictures that a service receives, and `im2latex monitor` on them."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from im2latex import cli
from im2latex.drift import distance
from im2latex.reader import Reader
from im2latex.reading import Hypothesis
from im2latex.serving.models import Served
from im2latex.serving.statistics import ServingStatistics
from im2latex.statistics import OF_EXAMPLES, add_formula, add_picture, empty, from_document, of_values, to_document
from pipeline.workspace import Workspace
from tests.im2latex.serving.clients import b64
from tests.im2latex.serving.conftest import Running, encoded, running, save_version
from trainer_module.trained import Trained


@pytest.fixture(scope="module")
def monitored(trained: Trained, images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose model learned from the pictures of the tests."""
    folder = tmp_path_factory.mktemp("monitored") / "7"
    plain = Reader(save_version(tmp_path_factory.mktemp("plain") / "7", trained))
    learned = empty(*OF_EXAMPLES)
    confidence = []
    for image in images * 50:
        pixels = plain.normalise(image)
        assert pixels is not None
        add_picture(learned, pixels)
    for image in images:
        ((best, *_),) = plain.read_each([image])
        confidence += [best.probability] * 50
        for _ in range(50):
            add_formula(learned, len(best.latex.split()), 0)
    learned["confidence"] = of_values("confidence", confidence)
    saved = save_version(folder, trained._replace(statistics=to_document(learned)))
    with running(lambda: [saved]) as service:
        yield service


def statistics(service: Running) -> dict[str, Any]:
    answer = service.ask("GET", "/statistics")
    assert answer.status == 200
    return answer.json


def samples(service: Running) -> dict[tuple[str, str], float]:
    text = service.ask("GET", "/metrics").body.decode()
    return {
        (sample.name, sample.labels.get("feature", sample.labels.get("le", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("im2latex_serving", "im2latex_drift"))
    }


def test_every_picture_that_is_read_is_counted_and_none_is_kept(
    monitored: Running, images: list[bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = statistics(monitored)
    assert (before["version"], before["pictures"], before["blank"]) == ("7", 0, 0)
    url = f"http://127.0.0.1:{monitored.port}"
    assert cli.run(["monitor", "--url", url]) == 0 and "too few to compare" in capsys.readouterr().out
    assert not any(name == "im2latex_drift_distance" for name, _ in samples(monitored))

    lengths = []
    for _ in range(9):
        request = {"signature_name": "predict_images", "instances": [b64(image) for image in images * 2]}
        lengths += [len(one["latex"].split()) for one in monitored.predict(request).json["predictions"]]
    monitored.ask("POST", "/predict", encoded(Image.new("L", (30, 30), 255)))
    assert monitored.ask("POST", "/predict", b"no picture").status == 400
    after = statistics(monitored)
    assert (after["pictures"], after["blank"]) == (9 * 2 * len(images), 1)
    assert after["since"] == before["since"] <= after["until"]
    counted = from_document(after["serving"])
    assert counted["length"] == of_values("length", lengths)
    reader = monitored.service.models.served.reader
    widths = [image.shape[1] for image in map(reader.normalise, images) if image is not None]
    assert counted["width"] == of_values("width", widths * 18)
    assert {name: histogram.count for name, histogram in counted.items()} == dict.fromkeys(counted, 108)

    # The same to Prometheus, and to `im2latex monitor`.
    metrics, learned = samples(monitored), from_document(after["training"])
    assert metrics["im2latex_serving_width_pixels_count", ""] == 108
    assert metrics["im2latex_serving_width_pixels_bucket", "+Inf"] == 108
    assert metrics["im2latex_serving_width_pixels_sum", ""] == sum(widths) * 18
    assert metrics["im2latex_serving_width_pixels_bucket", "64.0"] == 18 * sum(width <= 64 for width in widths)
    for name in ("width", "height", "ink", "length", "confidence"):
        apart = distance(name, learned[name], counted[name])
        assert metrics["im2latex_drift_distance", name] == pytest.approx(apart) and apart < 0.02
        assert metrics["im2latex_drift_threshold", name] == 0.1
    assert cli.run(["monitor", "--url", url]) == 0

    # Pictures of another kind.
    (tmp_path / "before.json").write_text(json.dumps(after))
    ink = np.asarray(Image.open(io.BytesIO(images[0])).convert("L"))
    wide = encoded(Image.fromarray(np.concatenate([ink] * 4, axis=1)))
    for _ in range(4):
        monitored.predict({"signature_name": "predict_images", "instances": [b64(wide)] * 30})
    capsys.readouterr()
    assert cli.run(["monitor", "--url", url + "/", "--since", str(tmp_path / "before.json"), "--json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert document["pictures"] == 120
    assert "width" in {one["feature"] for one in document["comparisons"] if one["status"] == "drifted"}


def test_a_new_version_resets_the_counts(tmp_path: Path, model: Path, trained: Trained, images: Any) -> None:
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(model, workspace.serving / "im2latex" / "7")
    with running(workspace.versions) as service:
        service.ask("POST", "/predict", images[0])
        assert statistics(service)["pictures"] == 1
        shutil.move(save_version(tmp_path / "8", trained), workspace.serving / "im2latex" / "8")
        deadline = time.monotonic() + 60
        while statistics(service)["version"] != "8" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert statistics(service)["pictures"] == 0
        service.ask("POST", "/predict", images[0])
        counted = statistics(service)
        assert (counted["version"], counted["pictures"], counted["training"]) == ("8", 1, {})


def test_threads_count_together_and_only_for_the_version_that_serves() -> None:
    reader: Any = SimpleNamespace(statistics={})
    serving, older = Served(Path("serving/8"), reader), Served(Path("serving/7"), reader)
    statistics = ServingStatistics(lambda: serving)
    image = np.zeros((20, 40), np.uint8)
    answers = [[Hypothesis("x + y", -0.1, -0.1, 0.9)], [Hypothesis("", 0.0, 0.0, 0.0)]]

    def count() -> None:
        for _ in range(500):
            statistics.add(serving, [image, None], answers)
            statistics.add(older, [image, None], answers)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    document = statistics.document()
    assert (document["version"], document["pictures"], document["blank"]) == ("8", 2000, 2000)
    assert document["serving"]["length"]["sum"] == 6000 and document["serving"]["ink"]["sum"] == 2000
