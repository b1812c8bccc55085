"""`GET /status` of coordinators, alone and in a cluster with a real NATS server."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator import status
from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.server import Coordinator
from tests.kit.cluster_harness import INTERVAL_S, member_of, remote_job_harness, wait_until
from tests.kit.coordinator_harness import NO_HEARTBEATS, coordinator_harness
from tests.kit.nats_server import nats_server
from tests.kit.scripted_agent import ScriptedAgent, offer


async def _status(coordinator: Coordinator, key: str = "") -> Any:  # the decoded JSON
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(coordinator.http_url, headers=headers) as client,
        client.get("/status") as response,
    ):
        assert response.status == 200
        assert response.content_type == "application/json"
        return await response.json()


def _documented_example() -> Any:
    page = Path("docs/coordinator.md").read_text("utf-8").partition("## Status")[2]
    found = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def _shape(value: Any) -> Any:
    """Return keys and types of a JSON value, with one entry of each list."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return float if isinstance(value, float | int) else type(value)


async def test_coordinators_of_a_cluster_show_each_other_as_documented() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"data: {}\n\n")
        edge, holder = await _status(remote.edge), await _status(remote.holder)
        assert edge["cluster"]["id"] == member_of(remote.edge).own_id.hex()
        assert edge["cluster"]["server"] == remote.cluster.nats.url
        [other] = edge["cluster"]["coordinators"]
        assert other.pop("silence_s") >= 0
        assert other == {
            "coordinator": holder["cluster"]["id"],
            "agents": 1,
            "models": 1,
            "sent_jobs": 1,
            "received_jobs": 0,
        }
        [other] = holder["cluster"]["coordinators"]
        assert (other["sent_jobs"], other["received_jobs"]) == (0, 1)
        assert edge["requests"] == {"running": 1, "queued": 0}
        assert edge["agents"] == []
        [agent] = holder["agents"]
        assert (agent["models"], agent["in_flight"], agent["draining"]) == (["tiny"], 1, False)
        agent["heartbeat_age_s"] = 1.0  # scripted agents send no heartbeats
        assert _shape(_documented_example()) == _shape({**holder, "not_ready": None})
        await job.answer_rest(b"")
        await response.read()


async def test_coordinator_without_a_cluster_shows_its_agents() -> None:
    async with coordinator_harness() as harness:
        shown = await _status(harness.coordinator)
    assert shown["cluster"] is None
    assert shown["not_ready"] is None
    assert shown["authorities"] == list(harness.coordinator.authorities)
    assert [agent["models"] for agent in shown["agents"]] == [["tiny"]]


async def test_long_lists_are_cut_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAX_AGENTS", 1)
    monkeypatch.setattr(status, "MAX_MODELS", 2)
    models = [offer(f"model-{number}") for number in range(5)]
    async with (
        Coordinator(NO_HEARTBEATS) as coordinator,
        ScriptedAgent(coordinator.connect_url, models=models),
        ScriptedAgent(coordinator.connect_url, models=models),
    ):
        shown = await _status(coordinator)
    [agent] = shown["agents"]
    assert shown["omitted_agents"] == 1
    assert (agent["models"], agent["omitted_models"]) == (["model-0", "model-1"], 3)


async def test_status_needs_the_key_and_shows_no_secret() -> None:
    async with nats_server("--user", "u", "--pass", "natssecret") as server:
        url = server.url.replace("//", "//u:natssecret@")
        settings = replace(
            NO_HEARTBEATS,
            api_keys=SecretSet(["clientsecret"]),
            enrollment_codes=SecretSet(["codesecret"]),
            cluster=ClusterSettings(urls=(url,), interval_s=INTERVAL_S),
        )
        async with Coordinator(settings) as coordinator:
            async with aiohttp.ClientSession(coordinator.http_url) as client:
                async with client.get("/status") as denied:
                    assert denied.status == 401
                from_a_page = {
                    "Authorization": "Bearer clientsecret",
                    "Origin": "https://x.example",
                }
                async with client.get("/status", headers=from_a_page) as denied:
                    assert denied.status == 403
            await wait_until(lambda: member_of(coordinator).is_connected)
            shown = await _status(coordinator, "clientsecret")
            assert shown["cluster"]["server"] == server.url
            assert "secret" not in str(shown)
            await server.stop()
            await wait_until(lambda: not member_of(coordinator).is_connected)
            assert (await _status(coordinator, "clientsecret"))["cluster"]["server"] is None
