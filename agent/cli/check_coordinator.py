"""Tries the coordinator for `check`: dial, handshake, round-trip time."""

import asyncio

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from agent.backoff import Fatal, LinkEnd, after
from agent.cli.findings import Finding, Outcome
from agent.cli.status_client import NoAgent, fetch_status_page
from agent.config import Config
from agent.dial import DialFailed, DialSettings, dial
from agent.identity import Identity
from agent.version import agent_version
from protocol.codec import VERSION_1
from protocol.exceptions import ProtocolError
from protocol.frames import Rejected, Welcome
from protocol.limits import HANDSHAKE_TIMEOUT_S, MAX_MESSAGE_TO_AGENT_BYTES
from protocol.session import AgentSession, State

COMPONENT = "coordinator"


async def check_coordinator(config: Config, identity: Identity | None) -> Finding:
    """Dial and, when that disturbs nobody, say hello.

    An agent that runs with the same key would lose its connection to our hello (the newer one
    wins), so with one running the handshake is left to it.
    """
    url = config.coordinator.url
    settings = DialSettings(
        url=url,
        token_file=config.coordinator.token_file,
        ca_file=config.coordinator.ca_file,
        proxy=config.coordinator.proxy,
    )
    running = await _agent_is_running(config)
    try:
        socket = await dial(settings, VERSION_1.subprotocol)
    except DialFailed as failed:
        return _failed(url, failed.what)
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            if identity is None or running:
                round_trip = await (await socket.ping())
                why = "the running agent is connected with this key" if running else "no key yet"
                details = f"reachable, round trip {round_trip * 1000:.0f} ms; no hello said: {why}"
                return Finding(COMPONENT, url, Outcome.OK, details)
            return await _greet(socket, settings, config, identity)
    except TimeoutError:
        details = f"the connection opened, but no welcome came within {HANDSHAKE_TIMEOUT_S:.0f} s"
        return Finding(COMPONENT, url, Outcome.FAILED, details, "is this really a coordinator?")
    except (ConnectionClosed, ProtocolError) as error:
        details = f"the handshake broke: {error}"
        return Finding(COMPONENT, url, Outcome.FAILED, details, "is this really a coordinator?")
    finally:
        await socket.close()


async def _greet(
    socket: ClientConnection, settings: DialSettings, config: Config, identity: Identity
) -> Finding:
    session = AgentSession(
        authority=settings.authority,
        public_key=identity.public_key,
        sign=identity.sign,
        agent_version=agent_version(),
        instance_id="check",
        enrollment_code=config.coordinator.enrollment_code or "",
    )
    answer: Welcome | Rejected | None = None
    while session.state not in (State.OPEN, State.CLOSED):
        message = await socket.recv()
        decoded = VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES)
        for frame in decoded.frames:
            event = session.receive(frame)
            if isinstance(event, Welcome | Rejected):
                answer = event
        if session.to_send:
            await socket.send(VERSION_1.encode(session.to_send))
            session.to_send.clear()
    if not isinstance(answer, Welcome):
        reason = f"{answer.code}: {answer.message}" if answer else "no reason given"
        return Finding(
            COMPONENT,
            settings.url,
            Outcome.FAILED,
            f"rejected: {reason}",
            "check [coordinator] enrollment_code, and which key is enrolled",
        )
    round_trip = await (await socket.ping())
    details = f"welcomed as {answer.provider_id}, round trip {round_trip * 1000:.0f} ms"
    return Finding(COMPONENT, settings.url, Outcome.OK, details)


async def _agent_is_running(config: Config) -> bool:
    try:
        await fetch_status_page(config.observability.prometheus_addr, "/livez")
    except NoAgent:
        return False
    return True


def _failed(url: str, what: LinkEnd) -> Finding:
    decision = after(what, 0, None, lambda: 0.0)
    advice = (
        decision.hint
        if isinstance(decision, Fatal)
        else "check [coordinator] url, and that the coordinator runs and the network lets you out"
    )
    return Finding(COMPONENT, url, Outcome.FAILED, what.detail, advice)
