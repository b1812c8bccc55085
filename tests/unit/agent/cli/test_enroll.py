from pathlib import Path

from click.testing import CliRunner

from provider_agent.agent.identity.provider_id import store_provider_id
from tests.unit.agent.cli.calls import COORDINATOR, SECRET, invoke

KEY = "agent.key"


def test_enroll_prints_what_identity_prints_and_how_to_pair(runner: CliRunner) -> None:
    identity = invoke(runner, "identity", PROVIDER_AGENT_IDENTITY_KEY_PATH=KEY)
    result = invoke(runner, "enroll", PROVIDER_AGENT_IDENTITY_KEY_PATH=KEY)

    assert result.exit_code == 0
    assert result.stdout == identity.stdout + (
        "provider id  none yet\n\n"
        "To pair: `provider-agent setup` shows a code, and the page that accepts it.\n"
    )


def test_enroll_prints_the_provider_id_once_it_is_known(runner: CliRunner) -> None:
    invoke(runner, "enroll", PROVIDER_AGENT_IDENTITY_KEY_PATH=KEY)
    store_provider_id(Path(KEY), "prov_1")

    result = invoke(runner, "enroll", PROVIDER_AGENT_IDENTITY_KEY_PATH=KEY)

    assert result.stdout.endswith("provider id  prov_1\n")
    assert result.exit_code == 0


def test_enroll_does_not_print_the_enrollment_code(runner: CliRunner) -> None:
    # The Rust agent prints it.
    result = invoke(runner, "enroll", config=COORDINATOR, PROVIDER_AGENT_IDENTITY_KEY_PATH=KEY)

    assert "The enrollment code is set; " in result.stdout
    assert SECRET not in result.output
