from pathlib import Path

import pytest
from click.testing import CliRunner

from provider_agent.agent.cli.main import main
from tests.kit.mistakes import IN_THE_SETTINGS, Mistake
from tests.unit.agent.cli.calls import ECHO, invoke

USEPOD = '[coordinator]\nurl = "wss://api.usepod.ai/provider/connect"\n'
PRICES = "[pricing]\ndefault_input_per_1m = 500_000\ndefault_output_per_1m = 750_000\n"
PASSWORD = "ws://127.0.0.1/provider/connect?token=SECRET-ENROLLMENT-CODE"


def test_valid_file_exits_with_0_and_touches_nothing(runner: CliRunner) -> None:
    result = invoke(runner, "validate", config=USEPOD + ECHO + PRICES)

    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "valid        agent.toml",
        "coordinator  wss://api.usepod.ai/provider/connect",
        "dialect      usepod (by its address)",
        "servers      1 backend",
    ]
    assert [path.name for path in Path.cwd().iterdir()] == ["agent.toml"]


def test_configured_dialect_is_named_and_the_query_is_masked(runner: CliRunner) -> None:
    text = f'[coordinator]\nurl = "{PASSWORD}"\ndialect = "usepod"\n'
    result = invoke(runner, "validate", config=text + ECHO)

    assert "dialect      usepod (as configured)\n" in result.stdout


def test_warnings_do_not_change_the_exit_code(runner: CliRunner) -> None:
    vllm = '[[backends]]\nkind = "vllm"\nmarkup = 0.1\n'
    result = invoke(runner, "validate", config=USEPOD + vllm)
    empty = invoke(runner, "validate", config=USEPOD)

    assert (result.exit_code, empty.exit_code) == (0, 0)
    assert "warning: backends[0].markup has no effect" in result.stderr
    assert empty.stderr.startswith("warning: no backend is configured; ")


def test_missing_prices_are_a_warning_only_where_models_need_them(runner: CliRunner) -> None:
    missing = "warning: [pricing] has no price above 0: in the dialect usepod, no model of a "

    assert missing in invoke(runner, "validate", config=USEPOD + ECHO).stderr
    zero = PRICES.replace("750_000", "0")
    assert missing in invoke(runner, "validate", config=USEPOD + ECHO + zero).stderr
    assert invoke(runner, "validate", config=USEPOD + ECHO + PRICES).stderr == ""
    assert missing not in invoke(runner, "validate", config=ECHO).stderr


@pytest.mark.parametrize(
    ("coordinator", "warned"),
    [
        ('url = "ws://127.0.0.1:9/provider/connect"', True),
        ('url = "ws://127.0.0.1:9/provider/connect"\ndialect = "provider-agent.v1"', False),
        ('url = "ws://127.0.0.1:9/provider/connect"\ndialect = "usepod"', False),
        ('url = "wss://api.usepod.ai/provider/connect"', False),
    ],
)
def test_file_of_the_rust_agent_with_another_dialect_is_a_warning(
    coordinator: str, warned: bool, runner: CliRunner
) -> None:
    path = Path("usepod-agent/agent.toml")
    path.parent.mkdir()
    path.write_text(f"[coordinator]\n{coordinator}\n{ECHO}", encoding="utf-8")

    result = runner.invoke(main, ["validate", "--config", str(path)])

    assert result.exit_code == 0
    assert ("warning: the file is that of usepod-agent" in result.stderr) is warned


@pytest.mark.parametrize("mistake", IN_THE_SETTINGS, ids=lambda mistake: mistake.what)
def test_mistake_exits_with_78_and_names_the_field(mistake: Mistake, runner: CliRunner) -> None:
    content = mistake.config
    Path("agent.toml").write_bytes(content.encode() if isinstance(content, str) else content)

    result = runner.invoke(
        main,
        ["validate"],
        env={"PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR": None, **mistake.env},
    )

    assert result.exit_code == 78
    assert result.stderr.startswith("Error: ")
    assert mistake.message in result.stderr
    assert mistake.remedy in result.stderr
    assert "SECRET" not in result.output


def test_unencrypted_address_needs_the_flag(runner: CliRunner) -> None:
    config = USEPOD.replace("wss", "ws") + ECHO

    assert invoke(runner, "validate", config=config).exit_code == 78
    assert invoke(runner, "validate", "--allow-insecure", config=config).exit_code == 0
