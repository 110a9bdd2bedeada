"""The options for several hosts; tests/end_to_end/test_standalone.py trains with them."""

from __future__ import annotations

import argparse

import pytest

from im2latex.errors import UserError
from pipeline.standalone.hosts import Hosts, add_options, chosen_hosts

VARIABLES = {"JAX_COORDINATOR_ADDRESS": "job-node-0-0.job:6666", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}


def chosen(*options: str, **environment: str) -> Hosts:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return chosen_hosts(parser.parse_args(options), environment)


def test_without_options_there_is_one_host():
    assert chosen() == chosen("--hosts", "1") == chosen(JAX_NUM_PROCESSES="1", JAX_PROCESS_ID="0") == Hosts(1, 0, "")


def test_options_come_before_the_environment():
    assert chosen(**VARIABLES) == Hosts(3, 2, "job-node-0-0.job:6666")
    options = ("--hosts", "4", "--host", "0", "--coordinator", "10.0.0.1:80")
    assert chosen(*options, **VARIABLES) == chosen(*options) == Hosts(4, 0, "10.0.0.1:80")
    assert chosen("--hosts", "2", "--host", "1", "--coordinator", "[::1]:80").coordinator == "[::1]:80"


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        (("--hosts", "0"), {}, "--hosts is 0; give the number of hosts, 1 or more"),
        (("--hosts", "2"), {}, "--host is missing; give each of the 2 hosts its number, 0 to 1"),
        (("--hosts", "2", "--host", "2"), {}, "--host is 2; give each of the 2 hosts its number, 0 to 1"),
        (("--host", "1"), {}, "--host is 1"),
        (("--hosts", "2", "--host", "1"), {}, "--coordinator is missing; give the address of host 0"),
        (("--coordinator", "10.0.0.1"), VARIABLES, "--coordinator is '10.0.0.1'; give the address of host 0"),
        ((), VARIABLES | {"JAX_PROCESS_ID": "two"}, "JAX_PROCESS_ID is 'two'; set it to a number, or give --host"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, environment, sentence):
    with pytest.raises(UserError) as error:
        chosen(*options, **environment)
    assert str(error.value).startswith(sentence)
