"""docs/protocol.md says what the code does: its vectors, numbers, tables, headings and links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.protocol import limits
from provider_agent.protocol.auth import signed_bytes
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.errors import REGISTRY
from provider_agent.protocol.formats import MAIN_OPERATION, Operation
from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    BackendLoad,
    CoordinatorFrame,
    Hello,
    Job,
    LiveJob,
    ModelOffer,
    Welcome,
)
from provider_agent.protocol.session import AgentSession, CoordinatorSession
from tests.unit.protocol.golden_vectors import AUTHORITY, FROM_AGENT, FROM_COORDINATOR, NONCE, SEED

TEXT: Final = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
STRUCTS: Final[list[type[msgspec.Struct]]] = [
    *get_args(CoordinatorFrame),
    *get_args(AgentFrame),
    LiveJob,
    ModelOffer,
    AgentLimits,
    BackendLoad,
]
KEY: Final = Ed25519PrivateKey.from_private_bytes(SEED)


def blocks(language: str) -> dict[str, str]:
    """The fenced blocks of a language, by the name behind it; without comment lines."""
    found = re.findall(rf"^```{language} ?(.*)\n((?:.*\n)*?)```$", TEXT, re.MULTILINE)
    return {name: re.sub(r"^#.*\n", "", body, flags=re.MULTILINE) for name, body in found}


def rows(first_cell: str) -> Iterator[list[str]]:
    """The cells of table rows whose first cell is code that matches."""
    for line in re.findall(rf"^\| `{first_cell}` \|.*\|$", TEXT, re.MULTILINE):
        yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def test_the_document_shows_the_golden_vectors() -> None:
    golden = {vector.name: vector.message for vector in (*FROM_COORDINATOR, *FROM_AGENT)}

    assert {name: bytes.fromhex(body) for name, body in blocks("hex").items()} == golden


def test_the_worked_signature_is_what_the_code_makes() -> None:
    (body,) = blocks("signature").values()
    shown = {
        name: "".join(value.split())
        for name, value in re.findall(r"(\w+): +((?:\S+\n +)*\S+)\n", body)
    }
    nonce = bytes.fromhex(shown["nonce"])
    signed = signed_bytes(shown["authority"], nonce)

    assert shown == {
        "seed": SEED.hex(),
        "public_key": KEY.public_key().public_bytes_raw().hex(),
        "authority": AUTHORITY,
        "nonce": nonce.hex(),
        "signed_bytes": signed.hex(),
        "signature": KEY.sign(signed).hex(),
    }


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_has_a_heading_in_its_order(struct: type[msgspec.Struct]) -> None:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", struct.__name__).lower()

    headings = re.findall(rf"^#### {prefix}\.(\w+)$", TEXT, re.MULTILINE)

    assert headings == list(struct.__struct_fields__)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_tells_its_type_and_whether_it_has_a_default(
    struct: type[msgspec.Struct],
) -> None:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", struct.__name__).lower()

    for field in msgspec.structs.fields(struct):
        match = re.search(rf"^#### {prefix}\.{field.name}\n\n(`.*)$", TEXT, re.MULTILINE)
        assert match, field.name
        assert ("default" in match[1]) == (not field.required), field.name


@pytest.mark.parametrize("frame", [*get_args(CoordinatorFrame), *get_args(AgentFrame)])
def test_every_frame_has_a_heading_and_its_type(frame: type[msgspec.Struct]) -> None:
    number = frame.__struct_config__.tag

    assert re.search(
        rf"^### {frame.__name__}(?: \(frame\))?\n\nType {number}\.", TEXT, re.MULTILINE
    )


def test_the_limits_are_the_constants() -> None:
    shown = {name: float(value) for name, value, _ in rows(r"[A-Z_0-9]+")}
    constants = {
        name: value
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int | float) and name not in {"KIB", "MIB"}
    }

    assert shown == constants


def test_the_errors_are_the_registry() -> None:
    shown = [row for row in rows(r"[a-z_]+") if row[1] in {"client", "provider", "coordinator"}]

    assert shown == [
        [str(code), str(entry.fault), "yes" if entry.retryable else "no", entry.meaning]
        for code, entry in REGISTRY.items()
    ]


def test_the_formats_are_the_table() -> None:
    shown = [row for row in rows("(?:openai|anthropic)") if len(row) == 4]

    assert shown == [
        [
            str(operation.wire_format),
            str(operation),
            operation.path,
            "yes" if operation is MAIN_OPERATION[operation.wire_format] else "",
        ]
        for operation in Operation
    ]


def test_every_link_leads_to_a_heading() -> None:
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```(?:.*\n)*?```$", "", TEXT, flags=re.MULTILINE), re.MULTILINE
    )
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= slugs


def session_messages() -> Iterator[tuple[str, bytes]]:
    (body,) = blocks("session").values()
    for side, text in re.findall(r"^([AC]) ((?:.+\n)+)", body, re.MULTILINE):
        yield side, bytes.fromhex(text)


def test_the_whole_session_can_be_played() -> None:
    agent = AgentSession(
        authority=AUTHORITY,
        public_key=KEY.public_key().public_bytes_raw(),
        sign=KEY.sign,
        agent_version="0.1.0",
    )
    coordinator = CoordinatorSession(nonce=NONCE, name="example", authorities=[AUTHORITY])

    for side, message in session_messages():
        if side == "C":
            _play_coordinator(message, agent, coordinator)
        else:
            _play_agent(message, agent, coordinator)

    assert coordinator.streams == {}
    assert not coordinator.to_send
    assert not agent.to_send


def _play_coordinator(message: bytes, agent: AgentSession, coordinator: CoordinatorSession) -> None:
    frames = VERSION_1.decode_from_coordinator(message, len(message)).frames
    for frame in frames:
        match frame:
            case Welcome():
                coordinator.accept(frame)
            case Job():
                coordinator.start_job(frame)
                if len(frames) > 1:
                    coordinator.cancel_job(frame.job_id, "client gone")
        agent.receive(frame)
    assert VERSION_1.encode(coordinator.to_send) == message
    coordinator.to_send.clear()


def _play_agent(message: bytes, agent: AgentSession, coordinator: CoordinatorSession) -> None:
    for frame in VERSION_1.decode_from_agent(message, len(message)).frames:
        if isinstance(frame, Hello):
            assert VERSION_1.encode(agent.to_send) == message
            agent.to_send.clear()
        coordinator.receive(frame)
