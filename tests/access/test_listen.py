"""Listening beyond this machine needs tokens: as processes, wherever the address was chosen."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from access.listen import check, in_brackets, is_loopback, names
from environment import SettingsError
from tests.access.conftest import Tokens
from tests.support.gateway import failed_start, gateway_environment
from tests.support.processes import run

OPEN = ["0.0.0.0", "::", "::ffff:0.0.0.0", "192.0.2.7", "gw.example", "2001:db8::1", "0", "*"]


@pytest.mark.parametrize("host", OPEN)
def test_an_address_that_others_reach_is_refused_without_tokens(host: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check(host, protected=False, chosen_by="X_HOST", prefix="X_")
    for word in ("X_HOST", host, "python -m service token", "X_TOKENS_FILE", "127.0.0.1"):
        assert word in str(caught.value)
    check(host, protected=True, chosen_by="X_HOST", prefix="X_")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1"),
        *("unix:/run/gateway.sock", "/run/gateway.sock"),
    ],
)
def test_this_machine_alone_needs_none(host: str) -> None:
    check(host, protected=False, chosen_by="X_HOST", prefix="X_")


@pytest.mark.parametrize("host", ["localhost.evil.example", "127.0.0.1.evil.example", "127.1", ""])
def test_only_the_addresses_themselves_and_their_one_name_are_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_is_a_name_for_the_host_unless_it_is_all_of_them() -> None:
    assert [names(host) for host in ("192.0.2.7", "2001:db8::1", "0.0.0.0", "::", "unix:/x")] == [
        ("192.0.2.7",),
        ("[2001:db8::1]",),
        (),
        (),
        (),
    ]


def test_an_ipv6_address_is_written_in_brackets_before_a_port() -> None:
    hosts = ("::1", "[::1]", "fe80::1%eth0", "127.0.0.1", "gw.example", "unix:/x", "/a:b")
    assert [in_brackets(host) for host in hosts] == [
        *("[::1]", "[::1]", "[fe80::1%eth0]", "127.0.0.1", "gw.example", "unix:/x", "/a:b")
    ]


def own_address() -> str:
    """An address of this machine that is not loopback; the test is skipped where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("no network interface but loopback")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0", "192.0.2.7", "gw.example"])
def test_the_rest_service_does_not_start_at_an_open_address_of_its_settings(host: str) -> None:
    done = failed_start(gateway_environment("http://127.0.0.1:9/v1", GATEWAY_HOST=host))
    assert done.returncode == 2
    assert f"GATEWAY_HOST {host}" in done.stdout and "GATEWAY_TOKENS_FILE" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "own"])
def test_the_rest_service_does_not_start_at_an_open_address_of_its_command_line(bind: str) -> None:
    address = f"{own_address()}:0" if bind == "own" else bind
    done = failed_start(gateway_environment("http://127.0.0.1:9/v1"), "--bind", address)
    assert done.returncode == 2
    assert "GATEWAY_TOKENS_FILE" in done.stdout and "Traceback" not in done.stdout


def test_one_open_address_among_others_is_enough() -> None:
    addresses = ("--bind", "127.0.0.1:0", "--bind", "0.0.0.0:0")
    assert failed_start(gateway_environment("http://127.0.0.1:9/v1"), *addresses).returncode == 2


def test_a_bad_token_file_stops_the_start_and_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("{}\n")
    settings = gateway_environment("http://127.0.0.1:9/v1", GATEWAY_TOKENS_FILE=file)
    done = failed_start(settings)
    assert (done.returncode, "line 1: " in done.stdout) == (2, True)
    assert "Traceback" not in done.stdout


def test_the_doctor_says_so_before_the_start(token_file: Tokens) -> None:
    def doctor(**settings: object) -> str:
        environ = gateway_environment("http://127.0.0.1:9/v1", GATEWAY_HOST="0.0.0.0", **settings)
        done = run([sys.executable, "-m", "service", "doctor"], environ)
        return done.stdout.partition("\n\n")[2]

    assert "wrong  settings: GATEWAY_HOST 0.0.0.0" in doctor()
    assert "wrong  settings" not in doctor(GATEWAY_TOKENS_FILE=token_file.path)
