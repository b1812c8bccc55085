"""Tries the coordinator for `check`: dial, handshake, round-trip time."""

import asyncio
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.cli.status_client import NoAgent, fetch_snapshot
from provider_agent.agent.config import Config
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.identity.key_lock import is_key_locked
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause, Fatal, next_attempt
from provider_agent.agent.link.dial import DialSettings, dial
from provider_agent.agent.link.dial_failure import DialFailed
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.version import agent_version
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.frames import Rejected, Welcome
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S, MAX_MESSAGE_TO_AGENT_BYTES
from provider_agent.protocol.session import AgentSession, State

COMPONENT: Final = "coordinator"

_ENROL: Final = "check [coordinator] enrollment_code, and which key is enrolled"
_REJECTION_ADVICE: Final = {
    "bad_signature": "dial the coordinator by an address that it knows as its own "
    "([coordinator] url; the reference coordinator's --authority)",
}

_REACH: Final = (
    "check [coordinator] url, and that the coordinator runs and the network lets you out"
)
_DIAL_ADVICE: Final = {
    DisconnectCause.UNAUTHORIZED: "put a good token into [coordinator] token_file",
    DisconnectCause.TOLD_TO_WAIT: "the coordinator is there, but busy or restarting; try again",
}


async def check_coordinators(config: Config, identity: Identity | None) -> list[Finding]:
    """Dial each address and, when that disturbs nobody, say hello.

    An agent that runs with the same key would lose its place to our hello (the newer one wins, and
    the older stops), so the handshake is left to it, at every address: all may lead to the same
    coordinator.
    """
    why_silent = "there is no key" if identity is None else await _running_agent(config)
    known = None if why_silent else identity
    urls = (config.coordinator.url, *config.coordinator.fallback_urls)
    return [await _check_address(config, url, known, why_silent) for url in urls]


async def _check_address(
    config: Config, url: str, identity: Identity | None, why_silent: str
) -> Finding:
    settings = DialSettings.of(config.coordinator, url)
    try:
        socket = await dial(settings, VERSION_1.subprotocol)
    except DialFailed as failed:
        return _failed(settings, failed.disconnect)
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            if identity is None:
                round_trip = await (await socket.ping())
                details = f"reachable, round trip {round_trip * 1000:.0f} ms; no hello said: "
                details += why_silent
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
            _REJECTION_ADVICE.get(answer.code, _ENROL) if answer else _ENROL,
        )
    round_trip = await (await socket.ping())
    details = f"welcomed as {answer.provider_id}, round trip {round_trip * 1000:.0f} ms"
    return Finding(COMPONENT, settings.url, Outcome.OK, details)


async def _running_agent(config: Config) -> str:
    """Why no hello may be said on account of an agent of these settings; "" when it may."""
    if is_key_locked(config.identity.key_path):
        return "an agent runs with this key"
    address = config.observability.prometheus_addr
    if not address:
        return ""
    try:
        state = await fetch_snapshot(address)
    except NoAgent:
        return ""
    urls = (config.coordinator.url, *config.coordinator.fallback_urls)
    connected = state.link == LinkState.CONNECTED and state.coordinator_url in urls
    return "the running agent is connected" if connected else ""


def _failed(settings: DialSettings, disconnect: Disconnect) -> Finding:
    decision = next_attempt(disconnect, 0, None, lambda: 0.0)
    if isinstance(decision, Fatal):
        advice = decision.hint
    elif disconnect.detail.startswith("[coordinator]"):
        advice = "mend that file, or the setting that names it"
    else:
        reach = f"{_REACH} by [coordinator] proxy" if settings.proxy else _REACH
        advice = _DIAL_ADVICE.get(disconnect.cause, reach)
    return Finding(COMPONENT, settings.url, Outcome.FAILED, disconnect.detail, advice)
