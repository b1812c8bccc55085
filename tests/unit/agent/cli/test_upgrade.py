"""`upgrade --check` with the real pip, and a package index on loopback."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provider_agent.agent.cli import upgrade as upgrade_module
from provider_agent.agent.cli.installation import Installation
from provider_agent.agent.cli.upgrade import is_newer
from tests.unit.agent.cli.calls import invoke

LOGIN = "who:planted-password"


@contextmanager
def package_index(*versions: str) -> Iterator[str]:
    """An index with these releases; yields its URL, with a login."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names = [f"provider_agent-{version}-py3-none-any.whl" for version in versions]
            found = bool(versions) and self.path == "/simple/provider-agent/"
            links = "".join(f'<a href="/{name}">{name}</a>' for name in names)
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<!DOCTYPE html><html><body>{links}</body></html>".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{LOGIN}@127.0.0.1:{server.server_port}/simple/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(runner: CliRunner, index: str) -> Result:
    return invoke(
        runner,
        *("upgrade", "--check"),
        PIP_INDEX_URL=index,
        PIP_CONFIG_FILE=os.devnull,
        PIP_EXTRA_INDEX_URL="",
        HTTP_PROXY="",
        http_proxy="",
        NO_PROXY="127.0.0.1",
    )


@pytest.fixture(autouse=True)
def _installed_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_module, "agent_version", lambda: "1.9.0")


def test_newer_release_is_reported_with_the_command_and_exit_code_1(runner: CliRunner) -> None:
    with package_index("1.8.0", "1.10.0", "2.0.0rc1") as index:
        result = check(runner, index)
    assert result.exit_code == 1
    assert "provider-agent 1.10.0 is available; this is 1.9.0" in result.output
    assert "to upgrade:" in result.output


def test_newest_release_exits_with_0(runner: CliRunner) -> None:
    with package_index("1.8.0", "1.9.0") as index:
        result = check(runner, index)
    assert (result.exit_code, result.output) == (0, "provider-agent 1.9.0 is the newest release\n")


def test_index_without_a_release_exits_with_75(runner: CliRunner) -> None:
    with package_index() as index:
        result = check(runner, index)
    assert result.exit_code == 75
    assert "index has no provider-agent for this Python" in result.output
    assert "planted-password" not in result.output


def test_offline_gives_one_message_and_exit_code_75(runner: CliRunner) -> None:
    with socket.socket() as unused:  # bound, but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        result = check(runner, f"http://{LOGIN}@127.0.0.1:{unused.getsockname()[1]}/simple/")
    assert result.exit_code == 75
    assert "the package index did not answer now; check the network" in result.output
    assert len(result.output.splitlines()) == 1
    assert "planted-password" not in result.output


def test_missing_pip_says_what_to_do(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Installation(
        Path("/opt/provider-agent"), "/opt/provider-agent/bin/python", has_pip=False
    )
    monkeypatch.setattr(upgrade_module, "this_installation", lambda: image)
    monkeypatch.setattr("shutil.which", lambda _: None)
    result = check(runner, "http://127.0.0.1:1/")
    assert result.exit_code == 2
    assert "pip is not installed here" in result.output
    assert "build or pull the image" in result.output


def test_without_check_it_does_nothing(runner: CliRunner) -> None:
    result = invoke(runner, "upgrade")
    assert result.exit_code == 2
    assert "add --check" in result.output


@pytest.mark.parametrize(
    ("latest", "installed", "newer"),
    [
        ("1.10.0", "1.9.0", True),
        ("1.9.0", "1.10.0", False),
        ("1.0", "1.0.0", False),
        ("1.0.1", "1.0", True),
        ("1.0", "1.0rc1", True),
        ("1.0", "1.0.dev3+g12", True),
        ("1.0", "1.0.post1", False),
        ("1.0", "1.0+local", False),
        ("0.1.0", "0+unknown", True),
        ("nonsense", "1.0", False),
    ],
)
def test_versions_are_compared_by_their_numbers(latest: str, installed: str, newer: bool) -> None:
    assert is_newer(latest, installed) is newer
