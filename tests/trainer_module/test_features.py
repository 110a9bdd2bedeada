from __future__ import annotations

import pytest

from trainer_module import features


def test_special_ids_come_before_the_vocabulary():
    assert (features.PAD, features.START, features.END, features.UNKNOWN, features.SPECIALS) == (0, 1, 2, 3, 4)
    assert len(features.SPECIAL_TEXTS) == features.SPECIALS


def test_vocabulary_is_read_one_token_a_line(tmp_path):
    path = tmp_path / "tokens"
    path.write_bytes("{\n\\frac\nä\u2028b\n".encode())
    assert features.read_vocabulary(path) == ["<pad>", "<start>", "<end>", "<unknown>", "{", "\\frac", "ä\u2028b"]
    assert features.read_vocabulary(str(path)) == features.read_vocabulary(path)


def test_missing_vocabulary_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        features.read_vocabulary(tmp_path / "tokens")
