import asyncio
import json
import logging
import stat
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from provider_agent.agent.identity.key import load_or_create
from provider_agent.agent.telemetry.logs import TextFormatter
from provider_agent.agent.telemetry.status import BackendStatus
from tests.kit.cli_agent import READY, status_server
from tests.unit.agent.cli.calls import invoke, invoke_with_status_server

FILES = ["about.txt", "versions.json", "config.json", "check.json", "log.txt", "status.json"]

ENROLLMENT_CODE = "planted-enrollment-code"
API_KEY = "planted-api-key"
FILE_KEY = "planted-key-of-a-file"
TOKEN = "planted-bearer-token"
PROXY_PASSWORD = "planted-proxy-password"
URL_USER = "planteduser"
URL_PASSWORD = "planted-url-password"
QUERY = "planted-query"
ENV_PASSWORD = 'planted "password" ü'
WALLET = "plantedwallet"
EMAIL = "planted@mail.example"
NAME = "Planted Rig"
USER = "plantedperson"
COORDINATOR_HOST = "planted-coordinator.example"
BACKEND_HOST = "planted-gpu.lan"
ADDRESS = "10.77.66.55"
SECRETS = (
    *(ENROLLMENT_CODE, API_KEY, FILE_KEY, TOKEN, PROXY_PASSWORD, URL_USER, URL_PASSWORD, QUERY),
    *(ENV_PASSWORD, json.dumps(ENV_PASSWORD)[1:-1], WALLET, EMAIL, NAME, USER),
)
HOSTS = (COORDINATOR_HOST, BACKEND_HOST, ADDRESS)


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def written_file() -> Path:
    (path,) = Path().glob("provider-agent-support-*.zip")
    return path


def plant(folder: Path) -> tuple[str, dict[str, str], str]:
    """Return a configuration, variables and a text with every secret; write the files."""
    home = folder / "home" / USER
    home.mkdir(parents=True)
    key_path = home / "key.pem"
    load_or_create(key_path)
    (home / "api.key").write_text(FILE_KEY)
    (home / "token").write_text(TOKEN)
    proxy = f"http://{URL_USER}:{PROXY_PASSWORD}@127.0.0.1:9"
    config = f"""
[operator]
display_name = "{NAME}"
wallet = "{WALLET}"
contact_email = "{EMAIL}"
[coordinator]
url = "wss://{COORDINATOR_HOST}/agents"
enrollment_code = "{ENROLLMENT_CODE}"
token_file = "{home}/token"
proxy = "{proxy}"
[identity]
key_path = "{key_path}"
[[backends]]
kind = "vllm"
url = "http://{BACKEND_HOST}:1"
api_key_env = "PLANTED_VARIABLE"
[[backends]]
kind = "llamacpp"
url = "http://127.0.0.1:9"
api_key_file = "{home}/api.key"
"""
    environ = {
        "HOME": str(home),
        "USER": USER,
        "PLANTED_VARIABLE": API_KEY,
        "DATABASE_PASSWORD": ENV_PASSWORD,
        "PROVIDER_AGENT_IDENTITY_KEY_PATH": str(key_path),
    }
    private = "".join(line for line in key_path.read_text().splitlines() if "-----" not in line)
    in_urls_only = {URL_PASSWORD, QUERY}
    words = [secret for secret in SECRETS if secret not in in_urls_only]
    text = " ".join([*words, *HOSTS, str(home), private])
    text += f" wss://{URL_USER}:{URL_PASSWORD}@{BACKEND_HOST}/v1?key={QUERY} http://{URL_USER}@h/"
    return config, environ, text


@pytest.fixture
def planted(tmp_path: Path) -> tuple[str, dict[str, str], str]:
    return plant(tmp_path)


def log_unredacted(text: str) -> None:
    """Log a line as if the redaction of the log had missed everything."""
    record = logging.LogRecord("provider_agent.x", logging.INFO, "", 0, "event", None, None)
    record.fields = {"reason": text}
    TextFormatter(()).format(record)


async def test_bundle_contains_no_secret(
    runner: CliRunner, planted: tuple[str, dict[str, str], str]
) -> None:
    config, environ, text = planted
    log_unredacted(text)
    backend = BackendStatus(
        id=f"vllm:http://{BACKEND_HOST}", kind="vllm", healthy=False, last_error=text
    )
    state = replace(READY, coordinator_url=f"wss://{COORDINATOR_HOST}", backends=[backend])
    async with status_server(state) as address:
        variable = {"PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR": address}
        result = await asyncio.to_thread(
            lambda: invoke(
                runner, "support-bundle", "-o", "b.zip", config=config, **environ, **variable
            )
        )
    assert result.exit_code == 0, result.output
    files = contents(Path("b.zip"))
    assert sorted(files) == sorted(FILES)
    assert "event reason=" in files["log.txt"], "the text was logged"
    assert json.loads(files["status.json"])["backends"][0]["kind"] == "vllm"
    settings = json.loads(files["config.json"])
    assert settings["settings"]["coordinator"]["enrollment_code"] == "[set]"
    assert "PROVIDER_AGENT_IDENTITY_KEY_PATH" in settings["variables"]
    findings = {one["component"] for one in json.loads(files["check.json"])}
    assert {"configuration", "identity", "coordinator", "backend"} <= findings
    private = (Path(environ["HOME"]) / "key.pem").read_text().splitlines()[1]
    for name, content in files.items():
        for secret in (*SECRETS, *HOSTS, private, environ["HOME"]):
            assert secret.lower() not in content.lower(), f"{secret} is in {name}"


async def test_output_says_what_is_inside_and_where(runner: CliRunner) -> None:
    async with status_server() as address:
        result = await invoke_with_status_server(
            runner, address, "support-bundle", config='[[backends]]\nkind = "echo"\n'
        )
    assert result.exit_code == 0
    path = written_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert result.output.startswith(f"{path} contains")
    assert all(name in result.output for name in FILES)


def test_bundle_of_an_unusable_configuration_and_no_agent(runner: CliRunner) -> None:
    result = invoke(
        runner, "support-bundle", "-o", "b.zip", config='x = 1\n[backends]\nkind = "echo"\n'
    )
    assert result.exit_code == 0
    files = contents(Path("b.zip"))
    assert "x: unknown section" in json.loads(files["config.json"])["error"]
    assert json.loads(files["versions.json"])["provider-agent"]


def test_bundle_without_a_running_agent_says_so(runner: CliRunner) -> None:
    result = invoke(runner, "support-bundle", "-o", "b.zip", config='[[backends]]\nkind = "echo"\n')
    assert result.exit_code == 0
    files = contents(Path("b.zip"))
    assert "the status server is off" in json.loads(files["status.json"])["error"]


async def test_names_of_machines_are_kept_on_request(
    runner: CliRunner, planted: tuple[str, dict[str, str], str]
) -> None:
    config, environ, _ = planted
    result = await asyncio.to_thread(
        lambda: invoke(
            runner, "support-bundle", "--keep-hosts", "-o", "b.zip", config=config, **environ
        )
    )
    assert result.exit_code == 0
    files = contents(Path("b.zip"))
    assert BACKEND_HOST in files["config.json"]
    assert not any(secret in text for secret in SECRETS for text in files.values())


def test_existing_file_is_not_replaced(runner: CliRunner) -> None:
    Path("b.zip").write_bytes(b"mine")
    result = invoke(runner, "support-bundle", "-o", "b.zip")
    assert result.exit_code == 1
    assert "b.zip exists; remove it, or choose another --output" in result.output
    assert Path("b.zip").read_bytes() == b"mine"


def test_folder_that_does_not_exist_is_reported(runner: CliRunner) -> None:
    result = invoke(runner, "support-bundle", "-o", "missing/b.zip")
    assert result.exit_code == 1
    assert "missing/b.zip cannot be written: No such file or directory" in result.output


def test_harmless_variables_leave_the_files_readable(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: their values were replaced wherever they occurred, and the files were no JSON.
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("MAX_TOKENS", "4096")
    result = invoke(runner, "support-bundle", config='[coordinator]\nurl = "ws://127.0.0.1:9"\n')
    assert result.exit_code == 0
    texts = contents(written_file())
    found = {name: json.loads(text) for name, text in texts.items() if name.endswith(".json")}
    assert found["config.json"]["settings"]["coordinator"]["allow_insecure"] is False
