import json

import pytest
from rich.console import Console

from provider_agent.agent.cli.check import findings as module
from provider_agent.agent.cli.check.findings import Finding, Outcome, all_well, failure, show

OK = Finding("configuration", "agent.toml", Outcome.OK, "backends: 1")
SKIPPED = Finding("completion", "m (openai)", Outcome.SKIPPED, "not asked for")
FAILED = Finding("backend", "vllm:http://h", Outcome.FAILED, "connection refused", "start it")


@pytest.mark.parametrize(
    ("findings", "well"),
    [([OK, SKIPPED], True), ([OK, FAILED], False), ([], True)],
)
def test_all_is_well_when_nothing_failed(findings: list[Finding], well: bool) -> None:
    assert all_well(findings) is well


@pytest.mark.parametrize(
    ("message", "details", "advice"),
    [
        (
            "a.toml: limits.x: unknown key; did you mean y?",
            "limits.x: unknown key",
            "did you mean y?",
        ),
        ("a.toml: not valid TOML", "not valid TOML", "otherwise"),
        ("no backend; add one; or two", "no backend", "add one; or two"),
    ],
)
def test_a_failure_takes_its_advice_from_the_message(
    message: str, details: str, advice: str
) -> None:
    finding = failure("configuration", "a.toml", message, "otherwise")

    assert finding == Finding("configuration", "a.toml", Outcome.FAILED, details, advice)


def test_people_see_what_to_do_below_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    show([OK, FAILED], as_json=False)

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "backend vllm:http://h failed connection refused" in lines
    assert lines[lines.index("backend vllm:http://h failed connection refused") + 1] == (
        "to do: start it"
    )
    assert lines[-1] == "1 of 2 checks failed."


def test_people_are_told_when_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    show([OK, SKIPPED], as_json=False)

    assert capsys.readouterr().out.endswith("All is well.\n")


def test_nothing_is_cut_off_in_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "console", lambda: Console(width=80))
    long = Finding("backend", "K" * 60, Outcome.FAILED, "D" * 90, "W" * 90)

    show([long], as_json=False)

    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert [shown.count(letter) for letter in "KDW"] == [60, 90, 90]


def test_programs_get_every_field(capsys: pytest.CaptureFixture[str]) -> None:
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
