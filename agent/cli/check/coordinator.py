"""Checks a coordinator: dial, handshake, round-trip time."""

import asyncio
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.cli.status_client import NoAgent, WantedAgent, fetch_state
from provider_agent.agent.config import Config
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.config.dialect import USEPOD, dialect_of, dialect_reason
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.identity.key_lock import is_key_locked
from provider_agent.agent.link.advice import explain_disconnect
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.close_reason import explain_rejection
from provider_agent.agent.link.dial import DialSettings, dial
from provider_agent.agent.link.dial_failure import DialFailed
from provider_agent.agent.link.usepod import UsepodLinks
from provider_agent.agent.version import agent_version
from provider_agent.protocol.agent_protocol import AgentProtocol, AgentSession
from provider_agent.protocol.codec import VERSION_1, AgentDialect
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.field_values import to_line
from provider_agent.protocol.frames import Rejected, Welcome
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S, SUBPROTOCOL

COMPONENT: Final = "coordinator"

_NO_COORDINATOR_ADVICE: Final = "check that [coordinator] url is the address of a coordinator"


async def check_coordinators(config: Config, identity: Identity | str) -> list[Finding]:
    """Dial each address, and perform the handshake there.

    The handshake is skipped without a key. It is also skipped, at every address, while an agent
    runs with the same key: a coordinator would reject a second connection with that key, and all
    addresses may lead to the same coordinator.

    Args:
        config: the settings.
        identity: the key, or why there is none.
    """
    key = identity if isinstance(identity, Identity) else None
    skip_reason = str(identity) if key is None else await _running_agent(config, key)
    key = None if skip_reason else key
    urls = (config.coordinator.url, *config.coordinator.fallback_urls)
    checks = [await _check_address(config, url, key, skip_reason) for url in urls]
    return [finding for findings in checks for finding in findings]


async def _check_address(
    config: Config, url: str, identity: Identity | None, skip_reason: str
) -> list[Finding]:
    settings, shown = DialSettings.of(config.coordinator, url), shown_url(url)
    step, awaited = ("ping", "pong") if identity is None else ("handshake", "Welcome")
    is_usepod = dialect_of(config.coordinator, url) == USEPOD
    try:
        socket = await dial(settings, None if is_usepod else SUBPROTOCOL)
    except DialFailed as failed:
        return [_failed(settings, failed.disconnect)]
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            if identity is None:
                round_trip = await (await socket.ping())
                details = f"reachable, round trip {round_trip * 1000:.0f} ms"
                details += _dialect_text(config, is_usepod=is_usepod)
                return [
                    Finding(COMPONENT, shown, Outcome.OK, details),
                    Finding(COMPONENT, shown, Outcome.SKIPPED, f"handshake skipped: {skip_reason}"),
                ]
            session, dialect = _session(settings, config, identity, is_usepod=is_usepod)
            return [await _handshake(socket, settings, config, session, dialect)]
    except TimeoutError:
        details = f"connected, but received no {awaited} within {HANDSHAKE_TIMEOUT_S:.0f} s"
        return [Finding(COMPONENT, shown, Outcome.FAILED, details, _NO_COORDINATOR_ADVICE)]
    except (ConnectionClosed, ProtocolError) as error:
        details = f"the {step} failed: {error}"
        return [Finding(COMPONENT, shown, Outcome.FAILED, details, _NO_COORDINATOR_ADVICE)]
    finally:
        await socket.close()


def _dialect_text(config: Config, *, is_usepod: bool) -> str:
    """Return the end of the details about a coordinator that does not speak version 1."""
    return f", dialect usepod ({dialect_reason(config.coordinator)})" if is_usepod else ""


def _session(
    settings: DialSettings, config: Config, identity: Identity, *, is_usepod: bool
) -> tuple[AgentSession, AgentDialect]:
    enrollment_code = to_line(config.coordinator.enrollment_code or "")
    if is_usepod:
        links = UsepodLinks(identity, config.identity.key_path)
        return links.new_session(enrollment_code), links.new_dialect()
    session = AgentProtocol(
        authority=settings.authority,
        public_key=identity.public_key,
        sign=identity.sign,
        agent_version=agent_version(),
        instance_id="check",
        enrollment_code=enrollment_code,
    )
    return session, VERSION_1


async def _handshake(
    socket: ClientConnection,
    settings: DialSettings,
    config: Config,
    session: AgentSession,
    dialect: AgentDialect,
) -> Finding:
    welcome: Welcome | None = None
    while welcome is None:
        message = await socket.recv()
        decoded = dialect.decode_from_coordinator(message, dialect.max_to_agent_bytes)
        for frame in decoded.frames:
            event = session.receive(frame)
            if isinstance(event, Rejected):
                return _rejected(settings, explain_rejection(event))
            if isinstance(event, Welcome):
                welcome = event
        if session.to_send:
            for message in dialect.encode_messages(session.to_send):
                await socket.send(message, text=dialect.is_text)
            session.to_send.clear()
    round_trip = await (await socket.ping())
    details = f"welcomed as {welcome.provider_id}, round trip {round_trip * 1000:.0f} ms"
    details += _dialect_text(config, is_usepod=dialect.is_text)
    return Finding(COMPONENT, shown_url(settings.url), Outcome.OK, details)


def _rejected(settings: DialSettings, disconnect: Disconnect) -> Finding:
    if disconnect.cause is DisconnectCause.KEY_IN_USE:
        # The coordinator reports `key_in_use` only after a valid signature, so the key is accepted.
        # The connected agent is not affected.
        return Finding(
            COMPONENT, shown_url(settings.url), Outcome.OK, f"reachable; {disconnect.detail}"
        )
    return _failed(settings, disconnect)


async def _running_agent(config: Config, identity: Identity) -> str:
    """Return why a running agent prevents a handshake; "" if none does."""
    if is_key_locked(config.identity.key_path):
        return "an agent runs with this key"
    address = config.observability.prometheus_addr
    if not address:
        return ""
    try:
        wanted = WantedAgent(identity.fingerprint, config.identity.key_path, only=True)
        state = (await fetch_state(address, wanted)).snapshot
    except NoAgent:
        return ""
    urls = (config.coordinator.url, *config.coordinator.fallback_urls)
    if state.last_welcome_age_s is None or state.coordinator_url not in map(shown_url, urls):
        return ""
    # The agent may have lost its link and wait to reconnect. Even then there is no handshake: the
    # coordinator would reject the agent as long as `check` is connected.
    return "the running agent has a session"


def _failed(settings: DialSettings, disconnect: Disconnect) -> Finding:
    explained = explain_disconnect(disconnect, has_proxy=bool(settings.proxy))
    return Finding(COMPONENT, shown_url(settings.url), Outcome.FAILED, *explained)
