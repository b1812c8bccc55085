import json

import pytest
from rich.console import Console

from provider_agent.agent.cli.check import findings as module
from provider_agent.agent.cli.check.findings import Finding, Outcome, all_passed, failure, show
from provider_agent.agent.config import ConfigError

OK = Finding("configuration", "agent.toml", Outcome.OK, "backends: 1")
SKIPPED = Finding("completion", "m (openai)", Outcome.SKIPPED, "not asked for")
FAILED = Finding("backend", "vllm:http://h", Outcome.FAILED, "connection refused", "start it")


@pytest.mark.parametrize(
    ("findings", "passed"),
    [([OK, SKIPPED], True), ([OK, FAILED], False), ([], True)],
)
def test_all_passed_means_that_no_check_failed(findings: list[Finding], passed: bool) -> None:
    assert all_passed(findings) is passed


@pytest.mark.parametrize(
    ("error", "details", "advice"),
    [
        (
            ConfigError("a.toml: limits.x: unknown key", "use y; or z"),
            "limits.x: unknown key",
            "use y; or z",
        ),
        (ConfigError("a.toml: not valid TOML; line 3"), "not valid TOML; line 3", "default"),
    ],
)
def test_failure_uses_the_advice_of_the_error_or_the_default(
    error: ConfigError, details: str, advice: str
) -> None:
    finding = failure("configuration", "a.toml", error, "default")

    assert finding == Finding("configuration", "a.toml", Outcome.FAILED, details, advice)


def test_advice_is_printed_below_the_details_and_failures_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show([OK, FAILED], as_json=False)

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    start = lines.index("failed backend vllm:http://h")
    assert lines[start + 1 : start + 3] == ["connection refused", "to do: start it"]
    assert lines[-1] == "1 of 2 checks failed."
    show([FAILED], as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 check failed."


def test_skipped_checks_are_counted_separately(capsys: pytest.CaptureFixture[str]) -> None:
    show([OK, FAILED, SKIPPED, SKIPPED], as_json=False)

    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 checks failed, 2 skipped."


def test_summary_without_failures_counts_skipped_checks_if_there_are_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show([OK], as_json=False)
    assert capsys.readouterr().out.endswith("\nAll checks passed.\n")

    show([OK, SKIPPED], as_json=False)
    assert capsys.readouterr().out.endswith("\n1 check passed, 1 skipped.\n")


def test_warnings_are_counted_and_do_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    warning = Finding("offer", "m", Outcome.WARNING, "it has no price", "set it")
    assert all_passed([OK, warning])
    show([OK, warning], as_json=False)
    assert capsys.readouterr().out.endswith("\nAll checks passed, 1 with a warning.\n")


def test_lines_break_only_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses and keys were split over several lines of a table, and could not be copied."""
    monkeypatch.setattr(module, "console", lambda: Console(width=80))
    url, key = f"wss://{'long.' * 30}example/provider/connect", "K" * 90
    words = " ".join(["word"] * 40)
    long = Finding("coordinator", url, Outcome.FAILED, f"{words} {key}", f"{words}, {url}")

    show([long], as_json=False)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"failed  coordinator   {url}"
    assert f"        {key}" in lines
    assert all(len(line) <= 80 for line in lines if url not in line and key not in line)


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    show([OK, FAILED], as_json=True)

    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "findings": [
            {
                "component": "configuration",
                "target": "agent.toml",
                "outcome": "ok",
                "details": "backends: 1",
                "what_to_do": "",
            },
            {
                "component": "backend",
                "target": "vllm:http://h",
                "outcome": "failed",
                "details": "connection refused",
                "what_to_do": "start it",
            },
        ],
    }
