"""The linear scan that bounds a request before it is decoded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import BadRequest, Operation, PolicyMode
from provider_agent.adapters.requests import structure
from provider_agent.adapters.requests.structure import check_structure
from tests.unit.adapters.requests.prepared import PASS, STRIP, raw_body

MIB = 2**20
HOSTILE = {
    "zeros": b'{"tools":[' + b"0," * (8 * MIB - 20) + b"0]}",
    "fields": b"{" + b",".join(b'"%d":1' % number for number in range(1_300_000)) + b"}",
    "nested fields": b'{"metadata":{'
    + b",".join(b'"%d":1' % number for number in range(1_300_000))
    + b"}}",
    "empty strings": b'{"stop":[' + b'"",' * (5 * MIB) + b'""]}',
    "deep": b'{"x":' + b"[" * (4 * MIB) + b"]" * (4 * MIB) + b"}",
    "flat lists": b'{"x":[' + b"[]," * (4 * MIB) + b"[]]}",
    "unbalanced": b'{"x":' + b"[" * 400_000,
    "escapes": b'{"x":"' + b"\\n" * 2_100_000 + b'"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_structure_is_refused_without_decoding(body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"fields|nested|escapes"):
        check_structure(body)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 300_000,
        "[{:,}]" * 100_000,
        '\\"[' * 100_000,
        "\\" * 200_001,
        '"' * 150_000,
        "\\\\[" * 90_000,
    ],
    ids=["letters", "brackets", "escapes", "backslashes", "quotes", "mixed"],
)
@pytest.mark.parametrize("shift", [0, 1])
def test_text_in_strings_is_not_counted(text: str, shift: int) -> None:
    # The scan works on slices; the shift moves the escapes by one byte over the slices' borders.
    check_structure(json.dumps({"x": "y" * shift + text}).encode())


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a"\\[]{},: é'),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='a"\\[:', max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.text(alphabet='a"\\[:'), VALUES, max_size=4), st.integers(1, 40))
def test_depth_is_exact(value: dict[str, object], slice_bytes: int) -> None:
    """It does not depend on the size of the slices, which may split an escape or a string."""
    text = json.dumps(value, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "_SLICE_BYTES", slice_bytes)
        patch.setattr(structure, "MAX_DEPTH", depth_of(value))
        check_structure(text)
        patch.setattr(structure, "MAX_DEPTH", depth_of(value) - 1)
        with pytest.raises(BadRequest):
            check_structure(text)


def test_long_list_is_refused_except_in_fields_for_token_ids() -> None:
    zeros = b"[" + b"0," * 150_000 + b"0]"

    with pytest.raises(BadRequest, match="tools"):
        raw_body("vllm", b'{"tools":' + zeros + b"}")
    assert zeros in raw_body("vllm", b'{"prompt":' + zeros + b"}", Operation.COMPLETIONS)


def test_large_text_and_image_pass() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (8 * MIB)}}
    content = [{"type": "text", "text": "hello, world " * 300_000}, image]
    request = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()

    assert len(raw_body("vllm", request)) > 11 * MIB


@pytest.mark.parametrize(
    "number", ["1e999", "-2.5E+400", "1e0310", "1" * 400, "[0, 1.0e308, 10e308]"]
)
@pytest.mark.parametrize("slice_bytes", [1, 7, 2**16])
def test_number_that_servers_read_as_infinity_is_refused(
    number: str, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "_SLICE_BYTES", slice_bytes)

    with pytest.raises(BadRequest, match="number"):
        raw_body("vllm", f'{{"messages":[],"temperature":{number}}}'.encode())


def test_usual_numbers_and_numbers_in_texts_pass() -> None:
    request = b'{"seed":18446744073709551615,"temperature":1.5e-300,"min_p":1E+308,"user":"1e999"}'

    assert json.loads(raw_body("vllm", request)) == {**json.loads(request), "model": "m"}


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc3", b"\xed\xa0\x80", "é".encode() * 40_000 + b"\xe2"]
)
@pytest.mark.parametrize("mode", [STRIP, PASS])
def test_invalid_utf8_is_refused(text: bytes, mode: PolicyMode) -> None:
    request = b'{"messages":[{"role":"user","content":"' + text + b'"}]}'

    with pytest.raises(BadRequest, match="UTF-8"):
        raw_body("vllm", request, request_policy=mode)


@pytest.mark.parametrize("escaped", ["", '\\"', "\\\\", '\\\\\\"', '\\"' * 40])
@pytest.mark.parametrize("length", [8100, 8190, 8191, 8192, 20_000])
def test_what_follows_a_long_string_is_counted(escaped: str, length: int) -> None:
    """The scan skips the rest of a string that is longer than its slice."""
    text = "x" * length + escaped + "x" * 9000 + escaped
    nested = "[" * 101 + "]" * 101

    check_structure(f'{{"a":"{text}","b":"{nested}"}}'.encode())
    with pytest.raises(BadRequest, match="nested"):
        check_structure(f'{{"a":"{text}","b":{nested}}}'.encode())
