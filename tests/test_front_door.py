"""Who may use our Prefect server: only clients with its password, whatever page a local browser shows."""

import errno
import http.client
import json
import os
import re
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    temporary_settings,
)
from typer.testing import CliRunner

from mnist_pipeline.cli import app
from mnist_pipeline.errors import EngineError, SettingsError, UnauthorizedError
from mnist_pipeline.orchestration.credentials import credentials_file, make_credentials
from mnist_pipeline.orchestration.deployments import server_in_force
from mnist_pipeline.orchestration.doctor import server_checks
from mnist_pipeline.orchestration.doctor.findings import Finding
from mnist_pipeline.orchestration.environment import LOOPBACK, spare_loopback
from mnist_pipeline.orchestration.server import require_server, wait_for
from mnist_pipeline.settings import load_settings
from tests.engine import ROOT, clean_environment, free_port, running_server

EVIL = "http://evil.example"
QUESTION = json.dumps({}).encode()


def status_of(port: int, method: str, path: str, **headers: str) -> int:
    """What a server answers to a client without a password; headers as given, Host too."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(QUESTION)),
            **headers,
        }.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(QUESTION)
        return connection.getresponse().status
    finally:
        connection.close()


def require_closed(port: int) -> None:
    """Without its password a server does nothing, for no origin and no host; and it lets no foreign page ask."""
    for headers in ({}, {"Origin": EVIL}, {"Host": "evil.example"}, {"Origin": "null", "Host": "[::1]"}):
        for method, path in (
            ("POST", "/api/deployments/"),
            ("POST", "/api/flow_runs/filter"),
            ("GET", "/api/admin/version"),
        ):
            assert status_of(port, method, path, **headers) == 401, (headers, path)
    for origin in (EVIL, "null", f"http://127.0.0.1.evil.example:{port}"):
        before = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = httpx.options(f"http://127.0.0.1:{port}/api/deployments/", headers=before)
        assert "Access-Control-Allow-Origin" not in preflight.headers, origin


# The file


def test_the_password_is_made_once_for_its_owner_alone_and_said_how_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "my config"))
    before = os.umask(0)
    try:
        first, second = (CliRunner().invoke(app, ["credentials"]) for _ in range(2))
    finally:
        os.umask(before)
    path = tmp_path / "my config" / "mnist-pipeline" / "prefect.env"
    assert [first.exit_code, second.exit_code] == [0, 0]
    assert first.stdout.startswith(f"made {path}")
    assert second.stdout.startswith(f"kept {path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    shell = [line.strip() for line in first.stdout.splitlines() if "set -a" in line]
    show = f'{shell[0]}; printf \'%s %s\' "$PREFECT_SERVER_API_AUTH_STRING" "$PREFECT_API_AUTH_STRING"'
    shown = subprocess.run(["sh", "-c", show], capture_output=True, text=True, check=True, env={}).stdout.split()
    assert shown[0] == shown[1]
    assert re.fullmatch(r"mnist:[A-Za-z0-9_-]{43}", shown[0])
    assert shown[0].partition(":")[2] not in first.stdout + second.stdout


def test_two_passwords_are_never_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert make_credentials(tmp_path / name)
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def test_a_password_that_others_can_read_or_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    make_credentials(tmp_path / "a")
    (tmp_path / "a").chmod(0o640)
    with pytest.raises(
        SettingsError, match="expected a password that this user alone can read, got mode 640; delete it, make"
    ):
        make_credentials(tmp_path / "a")
    (tmp_path / "b").touch(0o600)
    with pytest.raises(SettingsError, match="got a file without PREFECT_SERVER_API_AUTH_STRING and PREFECT_API_AUTH_"):
        make_credentials(tmp_path / "b")
    with pytest.raises(SettingsError, match="cannot be written"):
        make_credentials(tmp_path / "b" / "prefect.env")


def test_without_a_home_folder_there_is_no_place_for_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in passwd
    with pytest.raises(SettingsError, match=r"^HOME: expected a folder of this user for its password, got none"):
        credentials_file()


def test_a_password_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match=r"cannot be written \(No space left on device\)"):
        make_credentials(tmp_path / "prefect.env")
    assert list(tmp_path.iterdir()) == []


# Loopback and proxies


@pytest.mark.parametrize(
    ("given", "spared"),
    [
        ({"NO_PROXY": "a.example, .b.example"}, ["a.example", ".b.example", *LOOPBACK]),
        ({"no_proxy": "a.example", "NO_PROXY": "localhost,b.example"}, ["a.example", "localhost", "b.example"]),
        ({"no_proxy": "", "NO_PROXY": " ,, "}, [*LOOPBACK]),
    ],
)
def test_loopback_is_spared_beside_what_was_spared_before(
    given: dict[str, str], spared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"https_proxy": "http://proxy.example", **given}.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        spare_loopback()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    assert os.environ["NO_PROXY"].split(",")[: len(spared)] == spared
    assert set(os.environ["NO_PROXY"].split(",")) >= set(LOOPBACK)


def test_no_proxy_at_all_stays_so_and_nothing_is_set_where_no_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    spare_loopback()
    assert not {"no_proxy", "NO_PROXY"} & os.environ.keys()
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")
    monkeypatch.setenv("NO_PROXY", "*")
    spare_loopback()
    assert urllib.request.proxy_bypass("files.example")  # what urllib itself goes by


# Servers


def look(address: str, tmp_path: Path) -> dict[str, Finding]:
    settings = load_settings(outputs=tmp_path / "outputs")
    with temporary_settings({PREFECT_API_URL: address, PREFECT_HOME: tmp_path}):
        return {finding.what: finding for finding in server_checks.check_server(settings, ROOT)[0]}


@pytest.mark.engine
def test_a_server_with_a_password_accepts_clients_with_it_and_no_others(
    prefect_server: dict[str, str], tmp_path: Path
) -> None:
    address, password = prefect_server["PREFECT_API_URL"], prefect_server["PREFECT_API_AUTH_STRING"]
    require_closed(httpx.URL(address).port or 0)
    with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: password}):
        require_server()
        with server_in_force() as client:
            client.read_flows()
        findings = look(address, tmp_path)
    assert findings["server password"].found == "required: a client without it is rejected (401)"
    assert findings["server origins"].found == "pages of other origins are rejected"
    for wrong, got in ((None, "none"), ("mnist:wrong", "another one")):
        with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: wrong}):
            for ask in (require_server, lambda: server_in_force().__enter__()):
                with pytest.raises(UnauthorizedError, match=f"in PREFECT_API_AUTH_STRING, got {got}; source the "):
                    ask()
            findings = look(address, tmp_path)
        assert {finding.healthy for finding in findings.values()} == {False}
        assert findings["server"].advice == "source the file that `mnist-pipeline credentials` made"


class Broken(BaseHTTPRequestHandler):
    """Says that it is healthy, and nothing else."""

    status, origins = 500, ""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.endswith("/health") else self.status)
        if self.origins:
            self.send_header("Access-Control-Allow-Origin", self.origins)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_OPTIONS(self) -> None:
        self.do_GET()


class Open(Broken):
    """Lets everybody in, as a server without a password that accepts all origins."""

    status, origins = 200, "*"


@contextmanager
def answering(handler: type[Broken]) -> Iterator[str]:
    """Yields the API address of a server that answers so."""
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_what_a_broken_server_says_is_not_known_to_be_good() -> None:
    with (
        answering(Broken) as address,
        temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}),
    ):
        with pytest.raises(EngineError, match="expected its version, got 500; start it"):
            require_server()
        (password, _) = list(server_checks._open_door())
    assert (password.healthy, password.found.startswith("not known: ")) == (False, True)


class Elsewhere(Broken):
    """Another program at the port, or another path of the server."""

    def do_GET(self) -> None:
        self.send_error(404)


def test_a_server_that_is_starting_is_waited_for_and_what_answers_with_an_error_is_not() -> None:
    port, servers = free_port(), []

    def start() -> None:
        servers.append(HTTPServer(("127.0.0.1", port), Broken))
        servers[0].serve_forever()

    Timer(1, start).start()
    starting = {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(starting), get_client(sync_client=True) as client:
        wait_for(client, 60)
        assert client.api_healthcheck() is None
    servers[0].shutdown()
    servers[0].server_close()
    with (
        answering(Elsewhere) as address,
        temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True) as client,
    ):
        wait_for(client, 600)


@pytest.mark.parametrize("handler", [Broken, Open])
def test_an_address_without_api_is_recognised(handler: type[Broken]) -> None:
    """Of a server that shows pages, and of one that does not."""
    with answering(handler) as address:
        for given in (address.removesuffix("/api"), address.removesuffix("api")):
            with (
                temporary_settings({PREFECT_API_URL: given, PREFECT_CLIENT_MAX_RETRIES: 0}),
                pytest.raises(EngineError, match=f"set PREFECT_API_URL={address}, .* if it is not there, start it"),
            ):
                require_server()


def require_found_open(address: str) -> None:
    with temporary_settings({PREFECT_API_URL: address}):
        findings = {finding.what: finding for finding in server_checks._open_door()}
    for what, found in (
        ("server password", "none: any client that reaches"),
        ("server origins", "pages of any origin may"),
    ):
        assert (findings[what].healthy, findings[what].found.startswith(found)) == (False, True)
        assert "restart the server" in findings[what].advice


def test_the_doctor_finds_a_server_out_that_lets_everybody_in() -> None:
    with answering(Open) as address:
        require_found_open(address)


@pytest.mark.slow  # each starts a server
@pytest.mark.engine
@pytest.mark.parametrize("password", [None, ""])
def test_the_doctor_finds_prefects_own_server_out_that_lets_everybody_in(password: str | None, tmp_path: Path) -> None:
    environment: dict[str, Any] = clean_environment(tmp_path) | {"PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "*"}
    del environment["PREFECT_SERVER_API_AUTH_STRING"]
    environment |= {} if password is None else {"PREFECT_SERVER_API_AUTH_STRING": password}
    with running_server(environment) as address:
        require_found_open(address)
