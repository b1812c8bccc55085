"""Every mistake has one message, which says what is wrong and what to do, and an exit code."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provider_agent.agent.cli.main import main
from provider_agent.agent.service import Service
from tests.kit.mistakes import COORDINATOR, ECHO, IN_THE_SETTINGS, IN_THE_WORLD, KEY, Mistake
from tests.kit.wrong_servers import WRONG_SERVERS, closed_port, wrong_server


def named(mistake: Mistake) -> str:
    return mistake.what


def make(mistake: Mistake, ports: dict[str, int] | None = None) -> None:
    """Write the configuration of a mistake."""
    config = mistake.config
    if isinstance(config, str):
        config = re.sub(r"<(\w+)>", lambda name: str((ports or {})[name[1]]), config).encode()
    if config:
        Path("agent.toml").write_bytes(config)


def invoke(runner: CliRunner, mistake: Mistake, *arguments: str) -> Result:
    env = {
        "HTTPS_PROXY": None,
        "https_proxy": None,
        "PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR": None,
        **mistake.env,
    }
    result = runner.invoke(main, arguments, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "SECRET" not in result.output
    return result


async def serve_nothing(_service: Service) -> int:
    return 0


def texts_of(result: Result) -> list[tuple[str, str]]:
    """Return message and remedy of each failed check."""
    findings = json.loads(result.output)["findings"]
    return [(f["details"], f["what_to_do"]) for f in findings if f["outcome"] == "failed"]


@pytest.mark.parametrize("mistake", IN_THE_SETTINGS, ids=named)
def test_mistake_in_the_settings_is_one_line_and_exits_with_2(
    mistake: Mistake, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "run", serve_nothing)  # a mistake without an error would run
    make(mistake)

    started = invoke(runner, mistake, "run")
    checked = invoke(runner, mistake, "check", "--json")

    assert (started.exit_code, checked.exit_code) == (2, 2)
    assert started.output.startswith("Error: ")
    assert started.output.count("\n") == 1
    ((details, what_to_do),) = texts_of(checked)
    shown = [started.output, f"{Path('agent.toml')}: {details}; {what_to_do}"]
    for text in shown:
        assert mistake.message in text
        assert mistake.remedy in text
    assert what_to_do


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """The ports of the servers that are not what the operator expects, by name."""
    with ExitStack() as stack:
        found = {name: stack.enter_context(wrong_server(name)) for name in WRONG_SERVERS}
        found["closed"] = closed_port()
        yield found


@pytest.fixture
def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is resolved, as without a network; addresses are."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *args: object, **kwargs: object) -> object:
        if str(host).endswith((".invalid", ".example")):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("no_dns")
@pytest.mark.parametrize("mistake", IN_THE_WORLD, ids=named)
def test_mistake_that_a_connection_shows_is_a_failed_check(
    mistake: Mistake, runner: CliRunner, ports: dict[str, int]
) -> None:
    make(mistake, ports)

    result = invoke(runner, mistake, "check", "--json")

    assert result.exit_code == 1
    texts = [text for text in texts_of(result) if mistake.message in text[0]]
    assert len(texts) == 1, texts_of(result)
    assert mistake.remedy in "; ".join(texts[0])
    assert texts[0][1]


def test_byte_order_mark_is_no_mistake(runner: CliRunner) -> None:
    Path("agent.toml").write_text(COORDINATOR + ECHO, "utf-8-sig")

    result = runner.invoke(main, ["config", "show"])

    assert result.exit_code == 0
    assert "ws://127.0.0.1:1/provider/connect" in result.output


def test_key_file_that_cannot_be_read_is_not_reported_as_missing(runner: CliRunner) -> None:
    Path("identity.key").mkdir()
    Path("agent.toml").write_text(f"{COORDINATOR}{KEY}{ECHO}", "utf-8")

    checked = runner.invoke(main, ["check", "--json"])
    started = runner.invoke(main, ["run"])

    texts = texts_of(checked)
    assert checked.exit_code == 1
    assert texts[0][0] == "cannot be read: Is a directory"
    assert "there is no key" not in checked.output
    assert started.exit_code == 2
    assert "identity.key: cannot be read: Is a directory" in started.output


ON_THE_COMMAND_LINE = [
    (("runn",), "No such command 'runn'. Did you mean 'run'?"),
    (("run", "--confg", "x"), "--confg"),
    (("run", "--max-concurrent", "many"), "'many' is not a valid integer"),
    (
        ("run", "-c", "missing.toml"),
        "missing.toml: no such file; write it with `provider-agent init",
    ),
    (("check", "-c", "."), "is a directory, not a file"),
    (("status",), "the status server is off; set [observability] prometheus_addr"),
    (("health",), "the status server is off; set [observability] prometheus_addr"),
]


@pytest.mark.parametrize(("arguments", "message"), ON_THE_COMMAND_LINE)
def test_mistake_on_the_command_line(
    arguments: tuple[str, ...], message: str, runner: CliRunner
) -> None:
    result = runner.invoke(main, arguments)

    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == (1 if arguments[0] in ("status", "health") else 2)
    assert message in " ".join(result.output.split())


def test_there_are_at_least_sixty_mistakes() -> None:
    names = [mistake.what for mistake in (*IN_THE_SETTINGS, *IN_THE_WORLD)]

    assert len(set(names)) == len(names)
    assert len(names) + len(ON_THE_COMMAND_LINE) >= 60
