"""Sends signed commands to the running agent."""

import time
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import msgspec

from provider_agent.agent.cli.service.host import own_command
from provider_agent.agent.cli.status_client import (
    NoAgent,
    decode,
    dialed_host,
    fetch_pages,
    not_an_agent,
    read_page,
)
from provider_agent.agent.config.addresses import is_loopback, listen_address
from provider_agent.agent.control.commands import Command, Reply
from provider_agent.agent.control.signature import (
    PATH,
    SIGNATURE_HEADER,
    TIME_HEADER,
    signed_message,
)
from provider_agent.agent.identity.key import Identity, IdentityError, load

_TIMEOUT_S: Final = 10.0
"""The agent writes a file, maybe on a slow disk, before it replies."""


class Signer(NamedTuple):
    """Who signs a command, and for which agent.

    Attributes:
        address: `host:port` of the agent's status server.
        identity: the agent's key.
        note: for the operator, if it is another agent than the configuration's; "" otherwise.
    """

    address: str
    identity: Identity
    note: str = ""


async def find_signer(
    prometheus_addr: str, key_path: Path, service_key: Path | None, action: str
) -> Signer:
    """Find a running agent whose key this user can read: the configured one, or the service's.

    Args:
        prometheus_addr: the address that the agent listens on.
        key_path: the configured key.
        service_key: the key of the installed service; None: it is not used.
        action: the name of the command, for messages.

    Raises:
        IdentityError: this user cannot read the agent's key, which signs the command.
        NoAgent: no agent was found that accepts commands.
    """
    own = _load(key_path)
    service = _load(service_key) if service_key not in (None, key_path) else None
    if isinstance(own, IdentityError) and (service is None or _is_absent(service)):
        raise IdentityError(
            own.problem,
            "the key signs the command: run it as the user of the agent, with the agent's "
            "configuration or PROVIDER_AGENT_IDENTITY_KEY_PATH",
        ) from own
    _check_loopback(prometheus_addr)
    pages = await fetch_pages(prometheus_addr, "/status")
    for key in (own, service):
        if not isinstance(key, Identity):
            continue
        agents = [page for page in pages if page.fingerprint == key.fingerprint]
        if agents:
            page = min(agents, key=lambda one: decode(one).draining)
            note = "" if key is own else f"this is the service's agent {page.agent}"
            return Signer(page.address, key, note)
    if pages[0].fingerprint is None:
        raise not_an_agent(pages[0].address)
    others = ", ".join(page.agent for page in pages)
    if isinstance(service, IdentityError) and not _is_absent(service):
        raise IdentityError(
            f"this user cannot read the key of the agent {others}, which signs the command",
            f"if it is the system's service: sudo {own_command()} {action}",
        )
    raise NoAgent(
        f"no agent runs with the key {key_path}; other agents: {others}; run the command as the "
        "user of the agent, with its configuration (--config)"
    )


def _load(path: Path | None) -> Identity | IdentityError | None:
    try:
        return None if path is None else load(path)
    except IdentityError as error:
        return error


def _is_absent(key: Identity | IdentityError | None) -> bool:
    return isinstance(key, IdentityError) and not isinstance(key.__cause__, PermissionError)


def _check_loopback(prometheus_addr: str) -> None:
    if not prometheus_addr:
        return
    host = listen_address(prometheus_addr)[0]
    if not is_loopback(dialed_host(host)):
        raise NoAgent(
            f"the status server listens only on {host}, but the agent accepts commands only "
            "over loopback; set [observability] prometheus_addr to an address on 127.0.0.1, or "
            "on 0.0.0.0"
        )


async def send_command(signer: Signer, command: Command) -> Reply:
    """Send a command to the running agent and return its reply.

    Raises:
        NoAgent: the agent does not accept commands.
    """
    address, identity = signer.address, signer.identity
    body = msgspec.json.encode(command)
    time_ns, port = time.time_ns(), int(address.rpartition(":")[2])
    signature = identity.sign(signed_message(PATH, port, time_ns, body)).hex()
    headers = {TIME_HEADER: str(time_ns), SIGNATURE_HEADER: signature}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                f"http://{address}{PATH}", data=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            status, content = response.status, await read_page(response, address)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NoAgent(f"the agent on {address} did not reply to the command") from error
    if status == 404:
        raise NoAgent(f"the agent on {address} is of an older version, which has no pauses")
    try:
        return msgspec.json.decode(content, type=Reply)
    except ValueError as error:
        raise not_an_agent(address) from error
