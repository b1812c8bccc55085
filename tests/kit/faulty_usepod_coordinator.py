"""Our coordinator with faults for the conformance cases of the Use Pod dialect."""

import itertools
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from provider_agent.conformance.agent_peer import result
from provider_agent.conformance.of_coordinator.jobs import UNKNOWN_JOB
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.usepod.coordinator_dialect import UsepodCoordinatorDialect
from provider_agent.protocol.usepod.job_ids import uuid_text
from tests.kit.usepod_faults import Change, Fault, Message, altered, only, refuse

Seen = Counter[tuple[str, str]]
"""How many messages of each type and job a connection has sent and received."""

LaterChange = Callable[[Message, Seen], Message | None]
"""A `Change` that depends on the earlier messages of the connection."""


class CoordinatorFault(Fault, frozen=True):
    """A fault of a coordinator.

    Attributes:
        sends_later: changes what it sends, after `sends`.
        receives_later: changes what it receives, after `receives`.
        random_bytes: replaces the coordinator's source of random bytes.
        settings: replaces some of the coordinator's settings.
        replaces: names of functions and properties of our coordinator, with their replacements.
        spares_first: whether the first connection is without the fault, because the kit stops if
            no agent is admitted.
        mixes_agents: whether an agent can answer the jobs of another one.
        ends_all: whether a malformed message ends every connection.
    """

    sends_later: LaterChange = lambda message, _seen: message
    receives_later: LaterChange = lambda message, _seen: message
    random_bytes: Callable[[int], bytes] | None = None
    settings: Sequence[tuple[str, Any]] = ()
    replaces: Sequence[tuple[str, object]] = ()
    spares_first: bool = False
    mixes_agents: bool = False
    ends_all: bool = False


def unlimited(message: Message) -> Message:
    """Return offers without limits."""
    models = [one | {"max_concurrent": 99} for one in message["models"]]
    return message | {"models": models, "limits": {"max_concurrent_total": 99}}


def of_unknown_job(message: Message) -> bool:
    """Whether the job of a message is the one that no coordinator has sent."""
    return message.get("job_id") == uuid_text(UNKNOWN_JOB)


def without_code(message: Message) -> bool:
    """Whether a message is an `auth_response` without an enrollment code."""
    return message["type"] == "auth_response" and "enrollment_code" not in message


def new_provider_id(message: Message) -> Message:
    """Return `auth_ok` with a provider id that no agent has yet."""
    return message | {"provider_id": uuid.uuid4().hex}


def complete(jobs: Iterable[RunningJob], *_reason: str, **_more: bool) -> None:
    """Complete the responses of lost jobs."""
    for job in jobs:
        job.on_end(result(job.job.job_id, 0))


def refuse_after(count: int, kind: str, earlier: str = "") -> LaterChange:
    """End the connection at a message of a type, after so many earlier ones of the same job.

    Args:
        count: how many earlier messages are accepted.
        kind: the type of the message.
        earlier: the type of the earlier messages; by default the same.
    """

    def change(message: Message, seen: Seen) -> Message:
        is_due = message["type"] == kind and seen[earlier or kind, message["job_id"]] >= count
        return refuse(message) if is_due else message

    return change


def cancel_after_first_byte(message: Message, seen: Seen) -> Message | None:
    """Send no `job_cancel` before the first byte of the response."""
    is_early = message["type"] == "job_cancel" and not seen["job_chunk", message["job_id"]]
    return None if is_early else message


def ignore_before_auth(message: Message, seen: Seen) -> Message | None:
    """Receive nothing before `auth_response`."""
    return message if message["type"] == "auth_response" or seen["auth_response", ""] else None


def refuse_if(condition: Callable[[Message], bool]) -> Change:
    """End the connection at a message that meets the condition."""
    return lambda message: refuse(message) if condition(message) else message


AGENTS: Final = "provider_agent.coordinator.agents"
_SESSIONS: Final = "provider_agent.coordinator.sessions"
_ANY_SIGNATURE: Final[Sequence[tuple[str, object]]] = [
    (f"{AGENTS}.dialects.is_signed", lambda *_arguments, **_nonce: True)
]

FAULTS: Final = {
    "accepts the upgrade of one agent only": CoordinatorFault(
        "usepod-upgrade",
        replaces=[
            (
                f"{AGENTS}.endpoint.AgentEndpoint._is_usepod",
                lambda endpoint, _request: not endpoint._fleet.availability.had_agents,
            )
        ],
    ),
    "sends no challenge": CoordinatorFault(
        "challenge-first", sends=only("auth_challenge", lambda _: None), spares_first=True
    ),
    "ignores what arrives before auth_response": CoordinatorFault(
        "frame-before-hello", receives_later=ignore_before_auth
    ),
    "waits a minute for auth_response": CoordinatorFault(
        "handshake-timeout", settings=[("handshake_timeout_s", 60.0)]
    ),
    "sends auth_ok again": CoordinatorFault(
        "traffic-states",
        sends=only("job", lambda _: {"type": "auth_ok", "provider_id": "prov_1"}),
    ),
    "uses one nonce for all connections": CoordinatorFault("nonce-fresh", random_bytes=bytes),
    "uses short nonces": CoordinatorFault("usepod-nonce", random_bytes=lambda _: b"12345678"),
    "accepts the signature of another key": CoordinatorFault(
        "signature-key", replaces=_ANY_SIGNATURE
    ),
    "accepts a signature over another nonce": CoordinatorFault(
        "signature-nonce", replaces=_ANY_SIGNATURE
    ),
    "sends no provider id": CoordinatorFault(
        "usepod-auth-ok", sends=only("auth_ok", lambda _: {"type": "auth_ok"})
    ),
    "needs the enrollment code again": CoordinatorFault(
        "usepod-reconnect", receives=refuse_if(without_code)
    ),
    "gives an agent another provider id": CoordinatorFault(
        "usepod-provider-id", sends=only("auth_ok", new_provider_id)
    ),
    "closes the connection when it receives a heartbeat": CoordinatorFault(
        "usepod-heartbeat", receives=only("heartbeat", refuse)
    ),
    "ignores capabilities without models": CoordinatorFault(
        "offered-models", receives=only("capabilities", lambda one: one if one["models"] else None)
    ),
    "ignores limits": CoordinatorFault("usepod-limits", receives=only("capabilities", unlimited)),
    "loses a field of the request": CoordinatorFault(
        "usepod-job",
        sends=only("job", lambda one: one | {"request": one["request"] | {"x-conformance": 1}}),
    ),
    "sends the request as text": CoordinatorFault(
        "traffic-messages", sends=only("job", lambda one: one | {"request": "{}"})
    ),
    "sends a job id that is not a UUID": CoordinatorFault(
        "traffic-messages", sends=only("job", lambda one: one | {"job_id": "job-1"})
    ),
    "sends one job id twice": CoordinatorFault(
        "traffic-job-ids", sends=only("job", lambda one: one | {"job_id": uuid_text(UNKNOWN_JOB)})
    ),
    "sends jobs for other models": CoordinatorFault(
        "traffic-offers", sends=only("job", lambda one: one | {"model_id": "other"})
    ),
    "changes the response": CoordinatorFault(
        "usepod-response", receives=only("job_chunk", lambda one: one | {"data": "AAAA"})
    ),
    "reports a failed job as complete": CoordinatorFault(
        "error-late", receives=only("job_error", lambda one: one | {"type": "job_done"})
    ),
    "does not cancel": CoordinatorFault("cancel", sends=only("job_cancel", lambda _: None)),
    "does not cancel before the first byte": CoordinatorFault(
        "usepod-cancel-first", sends_later=cancel_after_first_byte
    ),
    "completes the response of a lost agent": CoordinatorFault(
        "usepod-lost-late", replaces=[(f"{_SESSIONS}.detached_session._fail", complete)]
    ),
    "forgets the jobs of a lost agent": CoordinatorFault(
        "usepod-lost-first",
        replaces=[(f"{_SESSIONS}.detached_session._fail", lambda *_, **__: None)],
    ),
    "closes the connection when a cancelled job continues": CoordinatorFault(
        "usepod-cancel-late", receives_later=refuse_after(1, "job_chunk", "job_cancel")
    ),
    "closes the connection when a job ends twice": CoordinatorFault(
        "end-twice", receives_later=refuse_after(1, "job_done")
    ),
    "closes the connection when a client does not read": CoordinatorFault(
        "usepod-slow-client", receives_later=refuse_after(8, "job_chunk")
    ),
    "lets an agent answer the jobs of another one": CoordinatorFault(
        "usepod-job-of-another", mixes_agents=True
    ),
    "sends the response when it is complete": CoordinatorFault(
        "response-streams",
        replaces=[
            (
                f"{_SESSIONS}.running_job.RunningJob.has_output",
                property(lambda job: job.end is not None),
            )
        ],
    ),
    "does not answer after job_error": CoordinatorFault(
        "error", receives=only("job_error", lambda _: None)
    ),
    "closes the connection when it receives an unknown error code": CoordinatorFault(
        "names-unknown",
        receives=only("job_error", refuse_if(lambda one: one["error_code"].startswith("x-"))),
    ),
    "closes every connection after a malformed message": CoordinatorFault(
        "usepod-malformed", ends_all=True
    ),
    "closes the connection when it receives a chunk of an unknown job": CoordinatorFault(
        "unknown-job", receives=only("job_chunk", refuse_if(of_unknown_job))
    ),
    "closes the connection when it receives an unknown message": CoordinatorFault(
        "usepod-types-unknown", receives=only("x_conformance", refuse)
    ),
    "closes the connection when it receives an unknown field": CoordinatorFault(
        "usepod-fields-unknown", receives=refuse_if(lambda one: "x_conformance" in one)
    ),
}


def faulty_dialect(fault: CoordinatorFault) -> type[UsepodCoordinatorDialect]:
    """Return our dialect with a fault."""
    jobs_of_all: dict[str, Any] = {}
    malformed: list[bytes | str] = []
    connections = itertools.count()

    class FaultyDialect(UsepodCoordinatorDialect):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._seen = Seen()
            self._is_spared = fault.spares_first and not next(connections)
            if fault.mixes_agents:
                self._jobs = jobs_of_all

        def encode_messages(self, frames: Sequence[CoordinatorFrame]) -> list[bytes]:
            return altered(super().encode_messages(frames), self._send)

        def _send(self, message: Message) -> Message | None:
            if self._is_spared:
                return message
            sent = fault.sends(message)
            return None if sent is None else self._later(sent, fault.sends_later)

        def _later(self, message: Message, change: LaterChange) -> Message | None:
            changed = change(message, self._seen)
            self._seen[message["type"], message.get("job_id", "")] += 1
            return changed

        def decode_from_agent(self, message: bytes | str, max_bytes: int) -> Decoded[AgentFrame]:
            if fault.ends_all and malformed:
                raise ProtocolViolation("a malformed message of an agent")
            try:
                received = fault.receives(json.loads(message))
            except (ValueError, RecursionError):
                malformed.append(message)
                return super().decode_from_agent(message, max_bytes)
            if received is not None:
                received = self._later(received, fault.receives_later)
            if received is None:
                return Decoded([], [])
            return super().decode_from_agent(json.dumps(received), max_bytes)

    return FaultyDialect
