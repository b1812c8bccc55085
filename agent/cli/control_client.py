"""Sends signed commands to the running agent."""

import time
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from provider_agent.agent.cli.status_client import NoAgent, find_agent, not_an_agent
from provider_agent.agent.config.addresses import is_loopback, listen_address
from provider_agent.agent.control.commands import Command, Reply
from provider_agent.agent.control.signature import (
    PATH,
    SIGNATURE_HEADER,
    TIME_HEADER,
    signed_message,
)
from provider_agent.agent.identity.key import IdentityError, load

_TIMEOUT_S: Final = 10.0
"""The agent writes a file, maybe on a slow disk, before it replies."""

_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


async def send_command(prometheus_addr: str, key_path: Path, command: Command) -> Reply:
    """Send a command to the running agent and return its reply.

    Raises:
        IdentityError: this user cannot read the agent's key, which signs the command.
        NoAgent: the agent was not found, or does not accept commands.
    """
    try:
        identity = load(key_path)
    except IdentityError as error:
        raise IdentityError(
            error.problem,
            "the key signs the command: run it as the user of the agent, with the agent's "
            "configuration or PROVIDER_AGENT_IDENTITY_KEY_PATH",
        ) from error
    if prometheus_addr:
        host = listen_address(prometheus_addr)[0]
        if host not in _WILDCARDS and not is_loopback(host):
            raise NoAgent(
                f"the status server listens only on {host}, but the agent accepts commands only "
                "over loopback; set [observability] prometheus_addr to an address on 127.0.0.1, or "
                "on 0.0.0.0"
            )
    address = await find_agent(prometheus_addr, identity.fingerprint)
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
            status, content = response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NoAgent(f"the agent on {address} did not reply to the command") from error
    if status == 404:
        raise NoAgent(f"the agent on {address} is of an older version, which has no pauses")
    try:
        return msgspec.json.decode(content, type=Reply)
    except ValueError as error:
        raise not_an_agent(address) from error
