from __future__ import annotations

import hashlib

from components.example_gen.corrections import line_of, properties_of, sentence
from data.dataset.record import Record, encode


def test_the_lineage_says_how_many_corrections_of_which_digest_there_are() -> None:
    record = Record(b"", "x", "correction-20261127T150423Z-ada-3f2a9c81d0e4-b7aa12cd~7")
    (line,) = line_of(encode(record), "train")
    assert line == "train\tcorrection-20261127T150423Z-ada-3f2a9c81d0e4-b7aa12cd"
    assert list(line_of(encode(Record(b"", "x", "7.png")), "train")) == []
    digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()[:12]
    expected = f"corrections: 1 train + 0 eval + 0 test (digest {digest}); corrections.txt lists them"
    properties = properties_of(f"{line}\n")
    assert sentence(properties) == expected
    # Kubeflow Pipelines turns integers into doubles.
    assert sentence({**properties, "corrections_train": 1.0}) == expected
    assert sentence({"span": 0}) == ""
