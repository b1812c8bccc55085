import msgspec

from provider_agent.coordinator.http.model_list import render_model, render_models
from provider_agent.protocol.formats import WireFormat


def test_openai_list_contains_each_model() -> None:
    body = msgspec.json.decode(render_models(WireFormat.OPENAI, ["a", "b"]))
    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == ["a", "b"]
    assert {entry["object"] for entry in body["data"]} == {"model"}


def test_anthropic_list_is_one_page() -> None:
    body = msgspec.json.decode(render_models(WireFormat.ANTHROPIC, ["a", "b"]))
    assert [entry["type"] for entry in body["data"]] == ["model", "model"]
    assert (body["first_id"], body["last_id"], body["has_more"]) == ("a", "b", False)


def test_list_without_models_is_empty_in_each_wire_format() -> None:
    assert msgspec.json.decode(render_models(WireFormat.OPENAI, []))["data"] == []
    assert msgspec.json.decode(render_models(WireFormat.ANTHROPIC, []))["first_id"] is None


def test_single_model_is_rendered_in_each_wire_format() -> None:
    assert msgspec.json.decode(render_model(WireFormat.OPENAI, "a"))["id"] == "a"
    assert msgspec.json.decode(render_model(WireFormat.ANTHROPIC, "a"))["display_name"] == "a"
