"""An operator of the Rust agent switches: the same files, the same provider, and the way back."""

import base64
import signal
from pathlib import Path

from tests.kit.cli_process import run_command, start_command
from tests.kit.fakes.vllm import LORA_ADAPTER, MODEL, FakeVllm
from tests.kit.usepod_coordinator import UsepodCoordinator
from tests.unit.agent.identity.test_key import PUBLIC, SECRET, rust_agent_file

FILE = """\
[operator]
display_name = "rig"
wallet = "11111111111111111111111111111111"
contact_email = "ops@example.com"

[coordinator]
url = "{url}"
enrollment_code = "POD-ENROLL-TEST"

[[backends]]
kind = "vllm"
url = "{vllm}"

[pricing]
default_input_per_1m = 500_000
default_output_per_1m = 750_000

[pricing.models]
"{model}" = {{ input_per_1m = 300_000, output_per_1m = 450_000 }}

[limits]
max_concurrent = 2
max_tokens_per_minute = 200_000
"""
"""Without `[identity]`, so that the place of the key is the default of that agent."""


def write(path: Path, text: str) -> bytes:
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return path.read_bytes()


async def test_enrolled_agent_continues_with_unchanged_files(tmp_path: Path) -> None:
    end = "-----END USEPOD AGENT KEY-----"
    enrolled = rust_agent_file(SECRET, PUBLIC).replace(end, f"provider_id: prov_1\n{end}")
    key_path = tmp_path / ".usepod-agent/identity.key"
    config_path = tmp_path / ".config/usepod-agent/agent.toml"
    async with FakeVllm() as vllm, UsepodCoordinator() as coordinator:
        key = write(key_path, enrolled)
        text = FILE.format(url=coordinator.url, vllm=vllm.url, model=MODEL)
        config = write(config_path, text)
        # This coordinator is not at the marketplace's address.
        env = {"PROVIDER_AGENT_COORDINATOR_DIALECT": "usepod"}

        validated = await run_command("validate", home=tmp_path, env=env)
        enroll = await run_command("enroll", home=tmp_path, env=env)
        assert (validated.code, enroll.code) == (0, 0), validated.err + enroll.err
        async with start_command("run", home=tmp_path, env=env) as agent:
            link = await coordinator.next_connection()
            (auth,) = [one for one in link.messages if one["type"] == "auth_response"]
            offered = await link.next("capabilities")
            agent.signal(signal.SIGTERM)
            stopped = await agent.wait()

    assert f"valid        {config_path}\n" in validated.out
    assert f"key file     {key_path}\n" in enroll.out
    assert enroll.out.endswith("provider id  prov_1\n")
    assert base64.b64decode(auth["pubkey"]) == PUBLIC
    assert "enrollment_code" not in auth
    prices = {
        one["model_id"]: (one["input_per_1m"], one["output_per_1m"]) for one in offered["models"]
    }
    assert prices == {MODEL: (300_000, 450_000), LORA_ADAPTER: (500_000, 750_000)}
    assert offered["limits"] == {"max_concurrent_total": 2, "max_tokens_per_minute": 200_000}
    assert stopped.code == 0
    assert "warning" not in agent.err.lower()
    # The Rust agent can continue.
    assert (key_path.read_bytes(), config_path.read_bytes()) == (key, config)
    assert not (tmp_path / ".config/provider-agent/identity.key").exists()
