from __future__ import annotations

import socket

import pytest

from im2latex.errors import UserError
from pipeline.config import load_config, to_toml
from pipeline.lineage.address import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mysql://me@host/db", Address("me", "host", 3306, "db")),
        ("mysql://me%40home@10.0.0.1:33/a-b", Address("me@home", "10.0.0.1", 33, "a-b")),
        ("mysql://me@[::1]:3306/db", Address("me", "::1", 3306, "db")),
    ],
)
def test_an_address_is_parsed(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["host", "mysql://host/db", "mysql://me@host", "mysql://me@host/", "oracle://me@host/db", "mysql://me@host:no/db",
     "mysql://me@host/db/more", "mysql://me@host/db?ssl=1", "sqlite:///file", "mysql://me@/db", "mysql://me@[host/db"],
)  # fmt: skip
def test_an_invalid_address_is_refused_with_the_expected_form(text: str) -> None:
    with pytest.raises(UserError, match=r"metadata\.connection .* mysql://user@host:port/database"):
        parse(text)


@pytest.mark.parametrize("text", ["mysql://me:hunter2@host/db", "mysql://me:hunter2@host:no/db", "x://:hunter2@host"])
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(settings=[f"metadata.connection={text}"])
    assert "hunter2" not in str(refused.value) and "metadata.connection" in str(refused.value)


def test_the_knob_round_trips_through_toml() -> None:
    config = load_config(settings=["metadata.connection=mysql://me@host/db"])
    assert config.metadata.connection == "mysql://me@host/db"
    assert 'connection = "mysql://me@host/db"' in to_toml(config)
    assert load_config().metadata.connection == ""


def test_the_refusal_of_postgresql_gives_the_reason() -> None:
    with pytest.raises(UserError, match="PostgreSQL database, where ML Metadata cannot store a text as long"):
        parse("postgresql://me@host/db")


def test_a_server_that_does_not_answer_is_reported() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but not listening
        port = bound.getsockname()[1]
        with pytest.raises(UserError, match=f"mysql://me@127.0.0.1:{port}/db does not answer"):
            parse(f"mysql://me@127.0.0.1:{port}/db").reach()
        bound.listen()
        parse(f"mysql://me@127.0.0.1:{port}/db").reach()
