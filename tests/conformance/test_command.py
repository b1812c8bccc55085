"""The commands `provider-agent conformance coordinator` and `… agent`."""

import re
from pathlib import Path

import msgspec
import pytest

from tests.kit.cli_process import run_command, start_command

PATIENT = ("--timeout", "60")
"""Longer than any answer takes in real time: only a failing test waits so long."""

pytestmark = pytest.mark.timeout(180)  # above PATIENT, so that the command reports a missing answer


async def test_command_tests_a_coordinator(tmp_path: Path) -> None:
    async with start_command("coordinator", "--port", "0", home=tmp_path) as coordinator:
        http = (await coordinator.wait_for_log("  clients  ")).split()[1]
        agents = (await coordinator.wait_for_log("  agents   ")).split()[1]
        arguments = ("conformance", "coordinator", agents, "--only", "job", *PATIENT)

        passed = await run_command(
            *arguments, "--submit-url", http, "--json", "--junit", "out.xml", home=tmp_path
        )
        unreachable = await run_command(
            *arguments, "--submit-url", "http://127.0.0.1:9", home=tmp_path
        )
        untested = await run_command(*arguments, home=tmp_path)

    assert (passed.code, msgspec.json.decode(passed.out)["conforms"]) == (0, True)
    assert 'failures="0"' in (tmp_path / "out.xml").read_text("utf-8")
    assert (unreachable.code, "not held" in unreachable.out) == (2, False)
    assert "1 rule: 1 not tested." in unreachable.out
    line = "cannot reach --submit-url http://127.0.0.1:9: connection refused\n"
    assert unreachable.err == f"conformance: the run ended early: {line}"
    assert (untested.code, "needs --submit-url" in untested.out) == (0, True)


async def test_a_coordinator_that_dies_is_not_judged(tmp_path: Path) -> None:
    rules = ("heartbeat-patience", "heartbeat-timeout", "handshake-timeout", "traffic-states")
    only = [argument for rule in rules for argument in ("--only", rule)]
    async with start_command("coordinator", "--port", "0", home=tmp_path) as coordinator:
        agents = (await coordinator.wait_for_log("  agents   ")).split()[1]
        output = ("--json", "--junit", "out.xml")
        arguments = ("conformance", "coordinator", agents, *only, *output, *PATIENT)
        async with start_command(*arguments, home=tmp_path) as kit:
            for _ in ("the first check", "heartbeat-patience", "heartbeat-timeout"):
                await coordinator.wait_for_log("agent connected")
            await coordinator.kill()
            tested = await kit.wait()

    report = msgspec.json.decode(tested.out)
    assert (tested.code, "the run ended early" in tested.err) == (2, True)
    verdicts = {result["id"]: result["verdict"] for result in report["results"]}
    assert verdicts == dict.fromkeys(rules, "not tested")
    assert (report["conforms"], "cannot be reached" in report["ended_early"]) == (False, True)
    junit = (tmp_path / "out.xml").read_text("utf-8")
    assert ('failures="0"' in junit, 'skipped="4"' in junit, "<error" in junit) == (True,) * 3


async def test_command_reports_what_prevents_a_run(tmp_path: Path) -> None:
    nothing = await run_command(
        "conformance", "coordinator", "ws://127.0.0.1:9/provider/connect", home=tmp_path
    )
    silent = await run_command("conformance", "agent", "--wait", "0.01", home=tmp_path)

    assert (nothing.code, nothing.err.count("\n")) == (2, 1)
    assert "is not the address of a coordinator: connection refused" in nothing.err
    assert (silent.code, "did not connect" in silent.err) == (2, True)


async def test_command_tests_an_agent(tmp_path: Path) -> None:
    arguments = ("conformance", "agent", "--only", "hello", "--only", "job", *PATIENT)
    async with start_command(*arguments, home=tmp_path) as kit:
        found = re.search(r"ws://\S+", await kit.wait_for_log("waiting for an agent"))
        assert found
        (tmp_path / "agent.toml").write_text(
            f'[coordinator]\nurl = "{found[0]}"\n[identity]\nkey_path = "{tmp_path}/key"\n'
            '[[backends]]\nkind = "echo"\n',
            "utf-8",
        )
        async with start_command("run", home=tmp_path):
            tested = await kit.wait()

    assert (tested.code, "2 rules: 2 held." in tested.out) == (0, True)
