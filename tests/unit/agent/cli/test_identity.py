from pathlib import Path

from click.testing import CliRunner

from provider_agent.agent.identity.provider_id import store_provider_id
from tests.unit.agent.cli.calls import SECRET, invoke


def test_identity_creates_the_key_once_and_prints_the_public_key(runner: CliRunner) -> None:
    first = invoke(runner, "identity", PROVIDER_AGENT_IDENTITY_KEY_PATH="keys/agent.key")
    second = invoke(runner, "identity", PROVIDER_AGENT_IDENTITY_KEY_PATH="keys/agent.key")

    assert first.exit_code == 0
    assert first.output == second.output
    assert first.output.startswith("public key   ")
    assert Path("keys/agent.key").read_text("utf-8").splitlines()[1] not in first.output


def test_damaged_key_prints_one_line_without_the_content_of_the_file(runner: CliRunner) -> None:
    Path("bad.key").write_text(f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n", "utf-8")
    Path("bad.key").chmod(0o600)

    result = invoke(runner, "identity", PROVIDER_AGENT_IDENTITY_KEY_PATH="bad.key")

    assert result.exit_code == 2
    assert result.output.startswith("Error: bad.key: damaged: ")
    assert result.output.count("\n") == 1


def test_the_provider_id_is_printed_once_it_is_known(runner: CliRunner) -> None:
    path = "agent.key"
    first = invoke(runner, "identity", PROVIDER_AGENT_IDENTITY_KEY_PATH=path)
    store_provider_id(Path(path), "prov_1")
    second = invoke(runner, "identity", PROVIDER_AGENT_IDENTITY_KEY_PATH=path)

    assert "provider id" not in first.stdout
    assert second.stdout == first.stdout + "provider id  prov_1\n"
