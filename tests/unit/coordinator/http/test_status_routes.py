import asyncio

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.scripted_agent import ScriptedAgent, offer
from tests.kit.virtual_time import in_virtual_time, now
from tests.unit.coordinator.http.chat_requests import BODY, CHAT, post_chat


async def readiness(http: aiohttp.ClientSession) -> tuple[int, str]:
    async with http.get("/readyz") as response:
        return response.status, (await response.json()).get("reason", "")


async def test_ready_while_an_agent_that_accepts_jobs_offers_a_model(
    settings: CoordinatorSettings,
) -> None:
    patient = replace(settings, drain_s=60.0)
    async with (
        Coordinator(patient) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
    ):
        assert await readiness(http) == (503, "no agent is connected")
        async with ScriptedAgent(coordinator.connect_url, models=[]) as agent:
            assert await readiness(http) == (503, "no connected agent offers a model")
            await agent.advertise(offer(operations=["unknown"]))
            status, reason = await readiness(http)
            assert (status, reason.partition(":")[0]) == (503, "the offered models receive no jobs")
        async with ScriptedAgent(coordinator.connect_url) as agent:
            assert await readiness(http) == (200, "")
            await agent.start_draining()
            stopping_agent = "every agent that offers a model is stopping or does not respond"
            assert await readiness(http) == (503, stopping_agent)
        async with ScriptedAgent(coordinator.connect_url) as agent:
            asking = asyncio.create_task(post_chat(http))
            job = await agent.next_job()
            stopping = asyncio.create_task(coordinator.stop())
            while agent.drain is None:
                await agent.settle()
            assert await readiness(http) == (503, "the coordinator is stopping")
            async with http.get("/livez") as response:
                assert response.status == 200
            await job.answer(b"{}")
            assert (await asking).status == 200
            await stopping


@in_virtual_time
async def test_coordinator_is_not_ready_while_its_only_agent_is_overdue() -> None:
    settings = CoordinatorSettings(port=0, drain_s=0)
    async with (
        Coordinator(settings, clock=now) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        assert await readiness(http) == (200, "")
        await asyncio.sleep(settings.heartbeat_ms / 1000 * 2)
        assert (await readiness(http))[0] == 503
        await agent.settle()
        await asyncio.sleep(settings.heartbeat_ms / 1000 / 2)
        assert await readiness(http) == (200, "")


async def test_root_describes_the_service(http: aiohttp.ClientSession) -> None:
    async with http.get("/") as response:
        assert response.status == 200
        text = await response.text()
    assert "reference coordinator of provider-agent" in text
    assert all(path in text for path in (CHAT, "/v1/messages\n", "/provider/connect", "/readyz"))


@pytest.mark.parametrize(("key", "status"), [("", 401), ("wrong", 401), ("secret", 200)])
async def test_metrics_need_a_key_if_clients_need_one(
    settings: CoordinatorSettings, key: str, status: int
) -> None:
    guarded = replace(settings, api_keys=SecretSet(["secret"]))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        Coordinator(guarded) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=headers) as http,
    ):
        async with http.get("/metrics") as response:
            assert response.status == status
        for path in ("/", "/livez", "/healthz"):
            async with http.get(path) as response:
                assert response.status == 200


async def test_metrics_count_requests_and_show_the_state(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url) as agent:
        for code in ("", "backend_error", "a code of a later version"):
            asking = asyncio.create_task(post_chat(http))
            job = await agent.next_job()
            await (job.fail(code) if code else job.answer(b"{}"))
            await (await asking).read()
        async with http.post(CHAT, data=BODY, headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 415
        async with http.post(CHAT, data=BODY, headers={"Origin": "http://a.example"}) as response:
            assert response.status == 403
        async with http.get("/metrics") as response:
            assert response.content_type == "text/plain"
            lines = set((await response.text()).splitlines())
    for code in ("ok", "backend_error", "unsupported_media_type", "other"):
        assert f'coordinator_requests_total{{code="{code}",operation="chat"}} 1.0' in lines
    for line in (
        'coordinator_denied_requests_total{status="403"} 1.0',
        'coordinator_request_seconds_count{operation="chat"} 4.0',
        'coordinator_first_byte_seconds_count{operation="chat"} 1.0',
        "coordinator_agents 1.0",
        "coordinator_models 1.0",
        "coordinator_running_requests 0.0",
        "coordinator_queued 0.0",
        'coordinator_tokens_total{direction="output"} 4.0',
        "coordinator_log_lines_dropped_total 0.0",
    ):
        assert line in lines
