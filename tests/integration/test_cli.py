"""The command line in real processes, with real signals and servers."""

import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from provider_agent.agent.backends.local_servers import find_local_servers
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.service import EXIT_REFUSED
from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.frames import Draining, JobResult, JobStarted, Rejected
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.kit.cli_process import run_command, start_command
from tests.kit.jobs import new_job
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome

SECRETS = {
    "code": "SECRET-ENROLLMENT-CODE",
    "token": "SECRET-BEARER-TOKEN",
    "key": "sk-SECRET-SERVER-KEY",
}
ECHO = '[[backends]]\nkind = "echo"\n'


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    settings = CoordinatorSettings(port=0, drain_s=0, enrollment_codes=SecretSet([SECRETS["code"]]))
    async with Coordinator(settings) as running:
        yield running


def write_config(home: Path, url: str, backends: str = ECHO, code: str = SECRETS["code"]) -> None:
    (home / "token").write_text(SECRETS["token"], "utf-8")
    (home / "agent.toml").write_text(
        f'[coordinator]\nurl = "{url}"\nenrollment_code = "{code}"\ntoken_file = "token"\n'
        f'[identity]\nkey_path = "identity.key"\n[observability]\nprometheus_addr = "off"\n'
        f"{backends}",
        "utf-8",
    )


def llamacpp_config(url: str) -> str:
    return f'[[backends]]\nkind = "llamacpp"\nurl = "{url}"\napi_key_env = "SERVER_KEY"\n'


def assert_contains_no_secrets(home: Path, text: str) -> None:
    private = (home / "identity.key").read_text("utf-8").splitlines()[1]
    assert [secret for secret in (*SECRETS.values(), private) if secret in text] == []
    assert "Traceback" not in text


# --- run -----------------------------------------------------------------------------------------


async def test_sigterm_drains_and_exits_with_0(coordinator: Coordinator, tmp_path: Path) -> None:
    write_config(tmp_path, coordinator.connect_url)
    async with start_command("run", "--log-level", "debug", home=tmp_path) as agent:
        await agent.wait_for_log(" connected ")
        agent.signal(signal.SIGTERM)
        result = await agent.wait()

    assert result.code == 0
    assert " draining " in result.err
    assert "stopped exit_code=0" in result.err
    assert result.out == ""
    assert_contains_no_secrets(tmp_path, result.err)


async def test_second_agent_with_the_same_key_exits_unless_it_replaces_the_first(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    # In an earlier version, starting a second agent by mistake stopped the first one for good.
    write_config(tmp_path, coordinator.connect_url)
    command = ("run", "--prometheus-addr", "")
    async with start_command(*command, home=tmp_path) as first:
        await first.wait_for_log(" connected ")
        async with start_command(*command, home=tmp_path) as second:
            refused = await second.wait()
        assert refused.code == EXIT_REFUSED
        assert "rejected by the coordinator: key_in_use" in refused.err
        assert "127.0.0.1" in refused.err, "the message does not say which agent is connected"
        assert "run --replace" in refused.err
        async with start_command(*command, "--replace", home=tmp_path) as third:
            await third.wait_for_log(" connected ")
            replaced = await first.wait()
            assert replaced.code == EXIT_REFUSED
            third.signal(signal.SIGTERM)
            assert (await third.wait()).code == 0


async def test_sigint_finishes_a_running_job_before_exit(tmp_path: Path) -> None:
    async with ScriptedCoordinator(lambda _: welcome(window_bytes=MIN_WINDOW_BYTES)) as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_connection()
            link.acknowledges = False
            job = long_job()
            await agent.wait_for_log(" connected ")
            await link.send_jobs(job)
            await link.next(JobStarted)

            agent.signal(signal.SIGINT)
            await link.next(Draining)
            link.acknowledges = True
            await link.send_pending_frames()
            end = await link.end(job.job_id)
            result = await agent.wait()

    assert isinstance(end, JobResult)
    assert end.total_bytes > MIN_WINDOW_BYTES
    assert result.code == 0


async def test_second_signal_aborts_running_jobs(tmp_path: Path) -> None:
    async with ScriptedCoordinator(lambda _: welcome(window_bytes=MIN_WINDOW_BYTES)) as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_connection()
            link.acknowledges = False
            await agent.wait_for_log(" connected ")
            await link.send_jobs(long_job())
            await link.next(JobStarted)

            agent.signal(signal.SIGTERM)
            await agent.wait_for_log(" draining in_flight=1 ")
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert result.code == 130
    assert "stopping immediately in_flight=1" in result.err
    assert "Traceback" not in result.err


def long_job() -> Job:
    """A job whose response exceeds the smallest window."""
    words = "word " * (MIN_WINDOW_BYTES // 50)
    body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": words}]}
    return new_job("echo", request=json.dumps(body).encode())


async def test_rejected_agent_reports_the_reason_and_exits_with_78(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    write_config(tmp_path, coordinator.connect_url, code="SECRET-WRONG-CODE")

    result = await run_command("run", home=tmp_path)

    assert result.code == 78
    assert "coordinator unusable url=ws:" in result.err
    assert "not_enrolled" in result.err
    assert "what_to_do=" in result.err
    assert "SECRET" not in result.err
    assert_contains_no_secrets(tmp_path, result.err)


async def test_malformed_frames_close_the_connection_and_are_not_logged(
    tmp_path: Path,
) -> None:
    async with ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", "--log-level", "debug", home=tmp_path) as agent:
            link = await coordinator.next_connection()
            await agent.wait_for_log(" connected ")
            await link.send_raw(b"\x91SECRET-PROMPT")
            await link.closed.wait()
            await agent.wait_for_log("coordinator violated the protocol")
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert link.socket.close_code == 1002
    assert result.code == 0
    assert "SECRET" not in result.err
    assert_contains_no_secrets(tmp_path, result.err)


async def test_invalid_setting_prints_one_line_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        "[coordinator]\nurl = 'wss://h'\nenrollment_code = ['SECRET']", "utf-8"
    )

    result = await run_command("run", home=tmp_path)

    assert result.code == 2
    assert result.err == (
        "Error: agent.toml: coordinator.enrollment_code: expected a string in quotes, got a list\n"
    )


async def test_status_address_in_use_prints_one_message_and_exits_with_2(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    write_config(tmp_path, coordinator.connect_url)
    address = coordinator.http_url.removeprefix("http://")

    result = await run_command("run", "--prometheus-addr", address, home=tmp_path)

    assert result.code == 2
    assert f"Error: the status server cannot listen on {address}" in result.err
    assert "Traceback" not in result.err


# --- check ---------------------------------------------------------------------------------------


async def test_check_exits_with_0_if_every_check_succeeds(
    coordinator: Coordinator, llamacpp_server: LlamaCppProcess, tmp_path: Path
) -> None:
    write_config(tmp_path, coordinator.connect_url, llamacpp_config(llamacpp_server.url))
    env = {"SERVER_KEY": SECRETS["key"]}
    await run_command("identity", home=tmp_path)

    result = await run_command("check", "--json", home=tmp_path, env=env)

    report = json.loads(result.out)
    assert (result.code, report["ok"], result.err) == (0, True, "")
    assert [(f["component"], f["target"], f["outcome"]) for f in report["findings"]] == [
        ("configuration", "agent.toml", "ok"),
        ("identity", "identity.key", "ok"),
        ("coordinator", coordinator.connect_url, "ok"),
        ("backend", f"llamacpp:{llamacpp_server.url}", "ok"),
        ("completion", "tiny (openai)", "ok"),
        ("completion", "tiny (anthropic)", "ok"),
    ]
    assert_contains_no_secrets(tmp_path, result.out)


async def test_characters_outside_the_output_encoding_are_printed_as_question_marks(
    tmp_path: Path,
) -> None:
    env = {"PYTHONIOENCODING": "ascii"}

    result = await run_command("check", "--config", "clé.toml", home=tmp_path, env=env)

    assert result.code == 2
    assert " cl?.toml\n" in result.out
    assert "Traceback" not in result.err


async def test_check_exits_with_1_and_prints_advice_for_each_failure(tmp_path: Path) -> None:
    async with ScriptedCoordinator(lambda _: Rejected("not_enrolled", "unknown key")) as rejecting:
        write_config(tmp_path, rejecting.url, llamacpp_config("http://127.0.0.1:1"))
        await run_command("identity", home=tmp_path)

        result = await run_command("check", home=tmp_path, env={"SERVER_KEY": SECRETS["key"]})

    assert result.code == 1
    assert "rejected by the coordinator: not_enrolled: unknown key" in result.out
    assert "to do: check [coordinator] enrollment_code" in result.out
    assert "to do: start the server" in result.out
    assert result.out.endswith("2 of 4 checks failed.\n")
    assert_contains_no_secrets(tmp_path, result.out + result.err)


# --- ask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
async def test_ask_prints_the_text_and_statistics(
    wire_format: str, llamacpp_server: LlamaCppProcess, tmp_path: Path
) -> None:
    (tmp_path / "agent.toml").write_text(llamacpp_config(llamacpp_server.url), "utf-8")
    env = {"SERVER_KEY": SECRETS["key"]}
    arguments = ("ask", "tiny", "Hello", "--max-tokens", "7", "--format", wire_format)

    result = await run_command(*arguments, home=tmp_path, env=env)

    assert result.code == 0
    assert len(result.out.split()) >= 5
    assert re.search(
        rf"llamacpp:\S+, {wire_format}: first byte after \d+ ms, tokens \d+ in, 7 out, ", result.err
    )


async def test_sigint_ends_ask_with_exit_code_130(
    llamacpp_server: LlamaCppProcess, tmp_path: Path
) -> None:
    (tmp_path / "agent.toml").write_text(llamacpp_config(llamacpp_server.url), "utf-8")
    arguments = ("ask", "tiny", "Hello", "--max-tokens", "2000")
    async with start_command(*arguments, home=tmp_path, env={"SERVER_KEY": "k"}) as command:
        await command.wait_for_first_byte()
        command.signal(signal.SIGINT)
        result = await command.wait()

    assert (result.code, result.err) == (130, "\n")


async def test_ask_exits_silently_when_its_output_is_closed(
    llamacpp_server: LlamaCppProcess, tmp_path: Path
) -> None:
    (tmp_path / "agent.toml").write_text(llamacpp_config(llamacpp_server.url), "utf-8")
    arguments = ("ask", "tiny", "Hello", "--max-tokens", "2000")
    async with start_command(*arguments, home=tmp_path, env={"SERVER_KEY": "k"}) as command:
        await command.wait_for_first_byte()
        command.close_stdout()
        result = await command.wait()

    assert (result.code, result.err) == (1, "")


# --- demo ----------------------------------------------------------------------------------------


async def test_demo_relays_both_formats_byte_for_byte(tmp_path: Path) -> None:
    result = await run_command("demo", home=tmp_path)

    rows = re.findall(r"(openai|anthropic) +\d+ ms +\d+ +(yes|no)", result.out)
    assert result.code == 0, result
    assert rows == [("openai", "yes"), ("anthropic", "yes")]
    assert result.err == ""
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("startup_code", "reason"),
    [
        ("sys.modules['xllamacpp'] = None", "pip install 'provider-agent[demo]'"),
        ("sys.path.insert(0, 'broken')", "llama.cpp did not start: ImportError: wrong platform"),
    ],
)
async def test_demo_uses_echo_if_xllamacpp_cannot_be_imported(
    startup_code: str, reason: str, tmp_path: Path
) -> None:
    if await find_local_servers():
        pytest.skip("the demo uses the inference server that runs on this machine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "xllamacpp.py").write_text("raise ImportError('wrong platform')")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{startup_code}\n")

    result = await run_command("demo", home=tmp_path, env={"PYTHONPATH": str(tmp_path)})

    assert result.code == 0, result
    assert "backend      the built-in echo; " in result.out
    assert reason in result.out
    assert len(re.findall(r"echo +(?:openai|anthropic) .* yes ", result.out)) == 2


async def test_demo_serves_until_sigterm_and_leaves_no_files_or_processes(tmp_path: Path) -> None:
    async with start_command("demo", "--serve", home=tmp_path) as demo:
        backend = await demo.wait_for_output("backend   ")
        assert " at http://127.0.0.1:" in backend or "echo" in backend
        line = await demo.wait_for_output("/v1/chat/completions -H")
        children = children_of(demo.pid)
        url, body = re.findall(r"(http://\S+) .* -d '(.+)'$", line.strip())[0]
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(headers=headers) as client,
            client.post(url, data=body) as response,
        ):
            stream = await response.read()
        demo.signal(signal.SIGTERM)
        result = await demo.wait()

    assert stream.endswith(b"data: [DONE]\n\n")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("Stopping ...\n")
    assert files_in(tmp_path) == []
    assert still_running(children) == []


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def still_running(processes: list[str]) -> list[str]:
    return [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def children_of(pid: int) -> list[str]:
    """Return the ids of the process's children; none on a system without /proc."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return file.read_text("utf-8").split() if file.exists() else []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_demo_leaves_no_files_after_a_signal_during_startup(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    async with start_command("demo", home=tmp_path) as demo:
        await demo.wait_for_output("Starting ...")
        demo.signal(number)
        result = await demo.wait()

    assert result.code == code
    assert "Traceback" not in result.err
    assert files_in(tmp_path) == []
