"""How a conformance report is printed."""

from xml.etree import ElementTree

import msgspec
from rich.console import Console

from provider_agent.conformance.case import Result, Verdict
from provider_agent.conformance.report import Report, table, to_json, to_junit


def result(verdict: Verdict, observed: str = "seen") -> Result:
    return Result(f"case-{verdict}", "handshake", "A rule.", verdict, observed, 0.25)


REPORT = Report(
    "agent",
    "ws://127.0.0.1:1/provider/connect",
    [
        result(Verdict.HELD),
        result(Verdict.NOT_HELD, "closed\x1b[2J & gone"),
        result(Verdict.NOT_FOLLOWED),
        result(Verdict.NOT_TESTED),
    ],
)


def test_not_held_is_the_only_verdict_that_fails_a_run() -> None:
    assert not REPORT.conforms
    assert Report("agent", "", [r for r in REPORT.results if r.verdict != "not held"]).conforms


def test_json_and_junit_say_that_a_run_ended_early() -> None:
    report = Report(
        "agent", "", [result(Verdict.HELD), result(Verdict.NOT_TESTED)], "it\x1b is gone"
    )
    shown = msgspec.json.decode(to_json(report))
    suite = ElementTree.fromstring(to_junit(report))

    assert (shown["conforms"], shown["ended_early"]) == (False, "it\x1b is gone")
    assert (suite.get("tests"), suite.get("errors"), suite.get("skipped")) == ("3", "1", "1")
    (error,) = suite.iter("error")
    assert error.get("message") == "it� is gone"


def test_json_holds_every_result() -> None:
    shown = msgspec.json.decode(to_json(REPORT))

    assert [r["verdict"] for r in shown["results"]] == [str(r.verdict) for r in REPORT.results]
    assert (shown["conforms"], shown["ended_early"]) == (False, None)


def test_junit_counts_not_held_as_failure_and_not_followed_or_not_tested_as_skipped() -> None:
    suite = ElementTree.fromstring(to_junit(REPORT))

    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "2")
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "closed�[2J & gone"
    assert [len(case) for case in suite] == [0, 1, 1, 1]


def test_the_table_shows_rule_verdict_and_observation_without_control_characters() -> None:
    console = Console(width=100, markup=False)
    with console.capture() as capture:
        console.print(table(REPORT.results))
    shown = capture.get()

    assert "closed�[2J & gone" in shown
    assert "#handshake" in shown
    assert "A rule." in shown
    assert "not followed" in shown


def test_summary_counts_each_verdict() -> None:
    assert REPORT.summary == "4 rules: 1 held, 1 not held, 1 not followed, 1 not tested."
