import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from provider_agent.adapters.base import BackendModel
from provider_agent.agent.backends.request_features import common_features
from tests.kit.scripted_backend import model

TEXT = frozenset({"text"})
IMAGES = TEXT | {"image"}
FLAGS = ("tools", "json_schema", "reasoning")

flags = st.sampled_from([True, False, None])
entries = st.builds(
    lambda limit, kinds, tools, schema, reasoning: replace(
        model(),
        max_output_tokens=limit,
        input_kinds=kinds,
        tools=tools,
        json_schema=schema,
        reasoning=reasoning,
    ),
    st.none() | st.integers(1, 100_000),
    st.none() | st.frozensets(st.sampled_from(["text", "image", "audio"])),
    *[flags] * 3,
)


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ({"tools": True}, {"tools": True}, {"tools": True}),
        ({"tools": True}, {"tools": False}, {"tools": False}),
        ({"tools": True}, {"tools": None}, {"tools": None}),
        ({"tools": False}, {"tools": None}, {"tools": False}),
        ({"max_output_tokens": 8}, {"max_output_tokens": 4}, {"max_output_tokens": 4}),
        ({"max_output_tokens": 8}, {}, {"max_output_tokens": None}),
        ({"max_output_tokens": 8}, {"max_output_tokens": -1}, {"max_output_tokens": None}),
        ({"input_kinds": IMAGES}, {"input_kinds": TEXT}, {"input_kinds": ["text"]}),
        ({"input_kinds": IMAGES}, {}, {"input_kinds": None}),
        ({"input_kinds": IMAGES}, {"input_kinds": IMAGES}, {"input_kinds": ["image", "text"]}),
    ],
)
def test_features_of_two_backends_are_combined_to_what_both_support(
    one: dict[str, object], other: dict[str, object], common: dict[str, object]
) -> None:
    features = asdict(common_features([replace(model(), **one), replace(model(), **other)]))

    assert {name: features[name] for name in common} == common


@given(st.lists(entries, min_size=1, max_size=4))
def test_an_offered_feature_is_supported_by_every_backend(models: list[BackendModel]) -> None:
    promised = common_features(models)

    for entry in models:
        for flag in FLAGS:
            assert getattr(promised, flag) is not True or getattr(entry, flag) is True
        if promised.input_kinds is not None:
            assert entry.input_kinds is not None
            assert set(promised.input_kinds) <= entry.input_kinds
        if promised.max_output_tokens is not None:
            assert entry.max_output_tokens is not None
            assert promised.max_output_tokens <= entry.max_output_tokens
