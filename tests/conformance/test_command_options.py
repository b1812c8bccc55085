"""Options of `provider-agent conformance`; an unusable one ends the command with exit code 2."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provider_agent.agent.cli.conformance import EXIT_NOT_RUN, conformance
from provider_agent.conformance.agent_run import CASE_IDS as AGENT_CASE_IDS
from provider_agent.conformance.agent_run import case_ids as agent_case_ids
from provider_agent.conformance.case import Result as CaseResult
from provider_agent.conformance.case import Verdict
from provider_agent.conformance.coordinator_run import CASE_IDS
from provider_agent.conformance.coordinator_run import case_ids as coordinator_case_ids
from provider_agent.conformance.report import Report
from provider_agent.conformance.usepod_cases import DIALECT

URL = "ws://127.0.0.1:9/provider/connect"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(conformance, [str(argument) for argument in arguments])


def exits_with_one_line(result: Result) -> bool:
    return (result.exit_code, result.output.count("\n")) == (EXIT_NOT_RUN, 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8700",
        "127.0.0.1:8700",
        "localhost",
        "ws://",
        "ws://:8700",
        "ws://127.0.0.1:99999",
        "ws://127.0.0.1:port",
        "ws://127.0.0.1:0",
        "ws://[::1",
        "ws://127.0.0.1#fragment",
        "ws://a..b/",
    ],
)
def test_an_unusable_url_is_explained(url: str) -> None:
    result = run("coordinator", url)

    assert exits_with_one_line(result)
    assert f"{url} is not the address of a coordinator: " in result.output


def test_the_error_for_another_url_scheme_names_the_accepted_schemes() -> None:
    assert "begins with wss:// or ws://" in run("coordinator", "http://127.0.0.1:8700").output


def test_a_password_in_a_url_is_not_printed() -> None:
    assert "secret" not in run("coordinator", "http://user:secret@127.0.0.1:8700").output


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "ws://127.0.0.1:8700", "http://", "http://h:x"])
def test_an_unusable_submit_url_is_explained(url: str) -> None:
    result = run("coordinator", URL, "--submit-url", url)

    assert exits_with_one_line(result)
    assert f"--submit-url {url} is not valid: " in result.output
    assert "http://" in result.output


@pytest.mark.parametrize("arguments", [("coordinator", URL), ("agent", "--wait", "0.01")])
def test_the_junit_file_is_checked_before_the_run(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "missing" / "out.xml"
    result = run(*arguments, "--junit", file)

    assert exits_with_one_line(result)
    assert f"cannot write --junit {file}: there is no directory" in result.output


def test_the_table_is_printed_even_if_the_junit_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()

    async def remove_folder(*_arguments: object) -> Report:
        folder.rmdir()
        return Report("coordinator", URL, [CaseResult("job", "jobs", "A.", Verdict.HELD, "", 0.0)])

    monkeypatch.setattr(
        "provider_agent.agent.cli.conformance.run_against_coordinator", remove_folder
    )
    result = run("coordinator", URL, "--junit", folder / "out.xml")

    assert (result.exit_code, result.stdout.endswith("1 rule: 1 held.\n")) == (EXIT_NOT_RUN, True)
    line = f"cannot write --junit {folder / 'out.xml'}: no such file or directory"
    assert result.stderr == f"conformance: {line}\n"


def test_an_unknown_rule_is_answered_with_similar_names() -> None:
    result = run("coordinator", URL, "--only", "resume-runing")

    assert result.exit_code == EXIT_NOT_RUN
    assert "there is no rule 'resume-runing'; did you mean " in result.output
    assert "--list-rules" in result.output
    assert len(result.output) < 500


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["coordinator"], CASE_IDS),
        (["agent"], AGENT_CASE_IDS),
        (["coordinator", "--dialect", DIALECT], coordinator_case_ids(DIALECT)),
        (["agent", "--dialect", DIALECT], agent_case_ids(DIALECT)),
    ],
)
def test_list_rules_prints_every_name(arguments: list[str], ids: list[str]) -> None:
    result = run(*arguments, "--list-rules")

    assert (result.exit_code, result.output.split()) == (0, ids)


def test_a_rule_of_another_dialect_is_unknown() -> None:
    result = run("coordinator", URL, "--dialect", DIALECT, "--only", "ack-early")

    assert (result.exit_code, "there is no rule 'ack-early'" in result.output) == (2, True)
