"""Renders the responses to `GET /v1/models` and `GET /v1/models/{id}` in each wire format."""

from collections.abc import Iterable

import msgspec

from provider_agent.protocol.formats import WireFormat

_EPOCH = "1970-01-01T00:00:00Z"
"""A placeholder: both APIs require a creation date, but agents do not report one."""


def render_models(wire_format: WireFormat, model_ids: Iterable[str]) -> bytes:
    """Render the list of all models, without pagination."""
    entries = [_entry(wire_format, model_id) for model_id in model_ids]
    if wire_format is WireFormat.OPENAI:
        return msgspec.json.encode({"object": "list", "data": entries})
    return msgspec.json.encode(
        {
            "data": entries,
            "has_more": False,
            "first_id": entries[0]["id"] if entries else None,
            "last_id": entries[-1]["id"] if entries else None,
        }
    )


def render_model(wire_format: WireFormat, model_id: str) -> bytes:
    """Render one model."""
    return msgspec.json.encode(_entry(wire_format, model_id))


def _entry(wire_format: WireFormat, model_id: str) -> dict[str, str | int]:
    if wire_format is WireFormat.OPENAI:
        return {"id": model_id, "object": "model", "created": 0, "owned_by": "provider-agent"}
    return {"type": "model", "id": model_id, "display_name": model_id, "created_at": _EPOCH}
