"""Pages of other sites cannot use the service through the browser of a person who can reach it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from im2latex.serving.hosts import Hosts, hosts_of
from tests.im2latex.serving.conftest import Running


def knows(hosts: Hosts, host: str) -> bool:
    try:
        hosts.check("GET", {"host": host})
    except HTTPException as error:
        assert error.status_code == 421 and "--allow-host" in error.detail
        return False
    return True


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8501", "LOCALHOST", "localhost.:80", "127.0.0.1:8501", "127.8.9.1", "[::1]:8501", "[::1]",
     "192.168.1.7:8501"],
)  # fmt: skip
def test_names_that_no_other_site_can_have_are_known(host: str) -> None:
    assert knows(Hosts(), host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8501", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost", "",
     ":8501", "[::1", "[evil]:80", "127.0.0.1@evil.example", "0x7f.1", "a" * 9000],
)  # fmt: skip
def test_every_other_name_is_refused(host: str) -> None:
    assert not knows(Hosts(), host)


def test_names_are_added_by_where_it_listens_and_by_hand() -> None:
    machine = socket.gethostname()
    assert not knows(hosts_of("127.0.0.1"), machine) and not knows(hosts_of("localhost"), machine)
    assert knows(hosts_of("0.0.0.0"), machine) and not knows(hosts_of("0.0.0.0"), "formulas.example")
    assert knows(hosts_of("formulas.example"), "Formulas.example:80")
    assert knows(hosts_of("::1", ["formulas.example"]), "formulas.example")
    assert knows(hosts_of("::1", ["*"]), "evil.example")


@pytest.mark.parametrize("path", ["/", "/predict", "/metrics", "/v1/models/im2latex:predict", "/healthz", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_address_answers_to_a_foreign_name(
    method: str, path: str, service: Running, images: list[bytes], model: Path
) -> None:
    answer = service.ask(method, path, images[0], Host="evil.example")
    assert answer.status == 421 and "not an allowed host name" in answer.json["error"]
    assert str(model) not in answer.body.decode()


def test_a_page_of_another_site_cannot_ask_and_may_link(service: Running, images: list[bytes]) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert service.ask("POST", "/predict", images[0], **foreign).status == 403
    assert service.ask("POST", "/predict", images[0], Origin="http://evil.example").status == 403
    assert service.ask("GET", "/", **foreign, **{"Sec-Fetch-Mode": "navigate"}).status == 200
    assert service.ask("POST", "/predict", images[0], **{"Sec-Fetch-Site": "same-origin"}).status == 200


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://localhost:8501", "localhost:8501", True),
        ("https://formulas.example", "formulas.example", True),
        ("https://formulas.example", "10.0.0.7:8501", True),  # behind a proxy, and allowed by name
        ("http://localhost:3000", "localhost:8501", False),  # another server on the same machine
        ("http://127.0.0.1:8501", "localhost:8501", False),
        ("http://evil.example", "localhost:8501", False),
        ("null", "localhost:8501", False),
        ("", "localhost:8501", False),
    ],
)
def test_the_origin_is_the_services_own(origin: str, host: str, is_own: bool) -> None:
    hosts = Hosts(["formulas.example"])
    hosts.check("GET", {"host": host, "origin": origin})  # a link
    if is_own:
        hosts.check("POST", {"host": host, "origin": origin})
    else:
        with pytest.raises(HTTPException) as error:
            hosts.check("POST", {"host": host, "origin": origin})
        assert error.value.status_code == 403
    Hosts(["*"]).check("POST", {"host": host, "origin": origin})
