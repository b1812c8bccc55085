"""A support bundle of a real agent whose jobs fail in ways that repeat their content."""

import json
import zipfile
from pathlib import Path

import aiohttp

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.cli_agent import free_ports
from tests.kit.cli_process import run_command, start_command
from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.server import json_response, stream_response

PROMPT = "planted-prompt-of-a-client"
ANSWER = "planted-answer-of-a-model"
KEY = "planted-key-of-a-server"
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


def write_config(home: Path, coordinator: Coordinator, server: FakeOpenAICompatible) -> None:
    (port,) = free_ports(1)
    (home / "agent.toml").write_text(
        f'[coordinator]\nurl = "{coordinator.connect_url}"\n[identity]\nkey_path = "id.key"\n'
        f'[observability]\nprometheus_addr = "127.0.0.1:{port}"\nlog_level = "debug"\n'
        f'[[backends]]\nkind = "openai_compatible"\nurl = "{server.url}"\n'
        'formats = ["openai", "anthropic"]\napi_key_env = "SERVER_KEY"\n',
        "utf-8",
    )


async def test_bundle_has_no_prompt_answer_or_key_of_jobs_that_failed(tmp_path: Path) -> None:
    text = f"{PROMPT} {ANSWER} {KEY}"
    error = {"error": {"message": f"cannot read {text}", "code": 400}}
    stream = b"data: " + json.dumps({"choices": [{"delta": {"content": ANSWER}}]}).encode()
    in_stream = b"data: " + json.dumps(error).encode() + b"\n\n"
    outcomes = [
        json_response(error, 400),
        json_response(error, 500),
        json_response(error, 401),
        stream_response([stream + b"\n\n", in_stream]),
        stream_response([stream]),  # no end
        stream_response([f"not an event: {text}\n\n".encode()]),
    ]
    async with (
        Coordinator(CoordinatorSettings(port=0, drain_s=0)) as coordinator,
        FakeOpenAICompatible(api_key=KEY) as server,
    ):
        write_config(tmp_path, coordinator, server)
        env = {"SERVER_KEY": KEY}
        async with start_command("run", home=tmp_path, env=env) as agent:
            await agent.wait_for_log(" connected ")
            async with aiohttp.ClientSession() as session:
                for wire_format, path in PATHS.items():
                    for outcome in outcomes:
                        server.script_jobs(outcome)
                        messages = [{"role": "user", "content": PROMPT}]
                        body = {"model": MODEL, "stream": True, "messages": messages}
                        if wire_format == "anthropic":
                            body["max_tokens"] = 5
                        url = f"{coordinator.http_url}{path}"
                        async with session.post(url, json=body) as response:
                            await response.read()
            assert server.jobs, "jobs have reached the server"
            result = await run_command("support-bundle", "-o", "b.zip", home=tmp_path, env=env)
            assert result.code == 0, result.err
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "job failed" in files["log.txt"] or "job ended" in files["log.txt"], files["log.txt"]
    assert json.loads(files["status.json"])["link"] == "connected"
    for name, content in files.items():
        for planted in (PROMPT, ANSWER, KEY):
            assert planted not in content, f"{planted} is in {name}"
