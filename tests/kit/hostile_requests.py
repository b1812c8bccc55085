"""A grammar of hostile requests: known and forbidden fields with odd names, values and structure.

A request is generated as JSON text, because the oddest cases do not survive an encoder: duplicate
and escaped names, numbers such as `1e4` and `-0`, white space. Most requests also have the fields
that their operation needs, with valid values, so that many get past the first checks.
"""

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from hypothesis import strategies as st

from provider_agent.adapters.requests.fields import NATIVE, STANDARD
from provider_agent.protocol.formats import Operation
from tests.kit.hostile_schemas import gbnf_texts, one_in, schema_texts

FORBIDDEN: Final = (
    *("models", "fallbacks", "provider", "plugins", "preset", "route", "service_tier", "speed"),
    *("x_search", "web_search_options", "modalities", "image_config", "debug", "trace"),
    *("kv_transfer_params", "ec_transfer_params", "vllm_xargs", "prompt_embeds", "priority"),
    *("request_id", "use_beam_search", "mm_processor_kwargs", "chat_template", "bootstrap_host"),
    *("lora_path", "custom_logit_processor", "api_base", "id_slot", "lora", "n_cache_reuse"),
    *("grammar_lazy", "grammar_triggers", "keep_alive", "options", "ttl", "draft_model"),
    *("previous_response_id", "conversation", "background", "container", "mcp_servers"),
    *("input_ids", "venice_parameters", "x_unknown", "", "\u0000", "__proto__"),
)
TOOL_TYPES: Final = (
    *("function", "custom", "web_search", "web_search_20250305", "openrouter:web_search", "mcp"),
    *("advisor_1", "shell", "code_interpreter", "image_generation", "file_search", "Function", ""),
)
URLS: Final = (
    *("data:image/png;base64,iVBORw0KGgo=", "http://127.0.0.1:1/x", "https://example.com/a.png"),
    *("file:///etc/passwd", "DATA:,x", " data:,x", "//10.0.0.1", "ftp://x", ""),
)
PART_TYPES: Final = (
    *("text", "image_url", "audio_url", "video_url", "input_audio", "file", "image", "document"),
    *("input_text", "input_image", "input_file", "output_text", "tool_use", "tool_result"),
    *("thinking", "refusal", "image_embeds", "unknown", "Text"),
)
NUMBERS: Final = (
    *("0", "1", "-1", "2", "5", "20", "65536", "200000000", "2000000000", "4294967296"),
    *("18446744073709551616", "1e4", "1.0", "-0", "1e308", "1e309", "0.5", "1E2", "-1.5e-7"),
)
GRAMMARS: Final = (
    *('root ::= "a"', "root ::= " + "(" * 70, "((((", "root ::= root", "", "(" * 60_000, "[a-"),
    *("root ::= [a-z]{1,999999}", 'root ::= ("a"*)*', "root ::= x\nx ::= x x"),
)
SCHEMAS: Final = (
    *('{"type":"object"}', '{"type":"string","pattern":"(a+)+$"}', '{"$ref":"#"}', "true"),
    *('{"type":"array","minItems":1000000000}', '{"anyOf":[]}', '{"type":"nope"}'),
    '{"properties":' * 70 + "{}" + "}" * 70,
)


class HostileRequest(NamedTuple):
    """One generated request.

    Attributes:
        operation: the operation that it is sent for.
        body: JSON text, which may be malformed.
    """

    operation: Operation
    body: bytes


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


@st.composite
def spelled(draw: st.DrawFn, name: str) -> str:
    """Write a name as JSON, mostly as it is, sometimes in another case or escaped."""
    form = draw(st.integers(0, 24))
    if form == 0:
        return _text(name.capitalize())
    if form == 1:
        return _text(name.replace("s", "\u017f").replace("k", "\u212a"))
    if form == 2:
        return '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'
    if form == 3:
        return _text(name.upper())
    return _text(name)


@st.composite
def objects(draw: st.DrawFn, fields: list[tuple[str, st.SearchStrategy[str]]]) -> str:
    """Write an object with some of these fields, possibly repeated."""
    chosen = draw(st.lists(st.sampled_from(fields), max_size=len(fields) + 1)) if fields else []
    pairs = [f"{draw(spelled(name))}:{draw(values)}" for name, values in chosen]
    space = draw(st.sampled_from(["", "", " ", "\n\t"]))
    return "{" + space + f",{space}".join(pairs) + space + "}"


def lists(items: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[str]:
    return st.lists(items, max_size=most).map(lambda found: "[" + ",".join(found) + "]")


numbers = st.sampled_from(NUMBERS)
flags = st.sampled_from(["true", "false", "null"])
short_texts = st.sampled_from(["hi", "two words", "é海🌊", 'a"\\b', "\ud7ff", "x" * 3000]).map(
    _text
)
leaves = numbers | flags | short_texts | numbers.map(_text) | st.just("[]") | st.just("{}")
anything = st.recursive(
    leaves,
    lambda inner: lists(inner) | objects([("a", inner), ("type", inner), ("url", inner)]),
    max_leaves=6,
)
deep = st.integers(1, 110).map(lambda depth: "[" * depth + "]" * depth)


def mostly(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw one of these values, or now and then any other one."""
    return one_in(10, anything | deep, values)


urls = mostly(st.sampled_from(URLS).map(_text))
url_objects = urls | objects([("url", urls), ("detail", short_texts)])
cache_control = objects([("type", st.just('"ephemeral"')), ("ttl", st.just('"1h"'))])
sources = objects(
    [
        ("type", st.sampled_from(["base64", "url", "file", "text"]).map(_text)),
        ("url", urls),
        ("data", urls),
        ("media_type", st.just('"image/png"')),
        ("file_id", st.just('"file_1"')),
    ]
)
parts = objects(
    [
        ("type", mostly(st.sampled_from(PART_TYPES).map(_text))),
        ("text", mostly(short_texts)),
        *((name, url_objects) for name in ("image_url", "audio_url", "video_url", "file_url")),
        ("input_audio", objects([("data", urls), ("format", short_texts)])),
        ("file", objects([("file_data", urls), ("file_id", st.just('"file_1"'))])),
        ("file_id", st.just('"file_1"')),
        ("source", sources),
        ("cache_control", cache_control),
        ("content", mostly(short_texts)),
    ]
)
tool_calls = lists(
    objects(
        [
            ("id", short_texts),
            ("type", st.sampled_from(TOOL_TYPES).map(_text)),
            ("function", objects([("name", short_texts), ("arguments", mostly(short_texts))])),
        ]
    )
)
messages = objects(
    [
        ("role", mostly(st.sampled_from(["user", "system", "assistant", "tool"]).map(_text))),
        ("content", mostly(short_texts) | lists(parts)),
        ("type", st.sampled_from(["message", "function_call", "item_reference"]).map(_text)),
        ("tools", lists(anything)),
        ("tool_calls", mostly(tool_calls)),
        ("reasoning_content", mostly(short_texts)),
        ("name", mostly(short_texts)),
    ]
)
good_message = st.just('{"role":"user","content":"hi"}')
message_lists = lists(good_message | messages)
schemas = mostly(st.sampled_from(SCHEMAS) | schema_texts())
functions = objects([("name", st.just('"f"')), ("parameters", schemas), ("strict", flags)])
tools = lists(
    objects(
        [
            ("type", mostly(st.sampled_from(TOOL_TYPES).map(_text))),
            ("function", functions),
            ("name", st.just('"f"')),
            ("parameters", schemas),
            ("input_schema", schemas),
            ("model", short_texts),
            ("cache_control", cache_control),
        ]
    )
)
grammars = mostly(st.sampled_from(GRAMMARS).map(_text) | gbnf_texts().map(_text))
_VALUES: Final[dict[str, st.SearchStrategy[str]]] = {
    "messages": message_lists,
    "input": mostly(short_texts) | message_lists | lists(mostly(short_texts)),
    "prompt": mostly(short_texts) | lists(mostly(short_texts)) | lists(numbers),
    "system": mostly(short_texts) | lists(parts),
    "tools": tools,
    "tool_choice": mostly(st.sampled_from(["auto", "none", "required"]).map(_text))
    | objects([("type", st.sampled_from(TOOL_TYPES).map(_text)), ("function", functions)]),
    "stream": mostly(flags),
    "stream_options": objects([("include_usage", mostly(flags)), ("x", anything)]),
    "stop": mostly(short_texts) | lists(mostly(short_texts)),
    "response_format": objects(
        [
            ("type", st.sampled_from(["text", "json_object", "json_schema"]).map(_text)),
            ("json_schema", objects([("schema", schemas), ("name", st.just('"s"'))])),
            ("schema", schemas),
        ]
    ),
    "structured_outputs": objects(
        [("json", schemas), ("regex", grammars), ("grammar", grammars), ("choice", lists(leaves))]
    ),
    "chat_template_kwargs": objects(
        [("enable_thinking", mostly(flags)), ("chat_template", short_texts), ("tools", anything)]
    ),
    "reasoning": objects([("effort", mostly(short_texts)), ("mode", anything)]),
    "thinking": objects([("type", mostly(short_texts)), ("budget_tokens", mostly(numbers))]),
    **dict.fromkeys(("grammar", "ebnf", "regex", "guided_regex", "guided_grammar"), grammars),
    **dict.fromkeys(("json_schema", "guided_json", "text", "output_config"), schemas),
}
_NEEDED: Final[dict[Operation, str]] = {
    Operation.CHAT: '"messages":[{"role":"user","content":"hi"}],"max_tokens":3',
    Operation.COMPLETIONS: '"prompt":"hi","max_tokens":3',
    Operation.EMBEDDINGS: '"input":"hi"',
    Operation.RESPONSES: '"input":"hi","max_output_tokens":3',
    Operation.MESSAGES: '"messages":[{"role":"user","content":"hi"}],"max_tokens":3',
    Operation.COUNT_TOKENS: '"messages":[{"role":"user","content":"hi"}]',
}


@st.composite
def requests(draw: st.DrawFn, operations: Iterable[Operation] = Operation) -> HostileRequest:
    """Draw a request for one of the operations."""
    operation = draw(st.sampled_from(list(operations)))
    known = sorted({*STANDARD[operation], *NATIVE[operation]})
    names = draw(
        st.lists(st.sampled_from(known) | st.sampled_from(FORBIDDEN), min_size=1, max_size=5)
    )
    pairs = [
        f"{draw(spelled(name))}:{draw(_VALUES.get(name, mostly(numbers | flags | short_texts)))}"
        for name in names
    ]
    if draw(st.integers(0, 4)):
        pairs.insert(draw(st.integers(0, len(pairs))), _NEEDED[operation])
    body = "{" + ",".join(pairs) + "}"
    if draw(st.integers(0, 19)) == 0:  # cut, with a byte too many, or both
        cut = draw(st.integers(0, len(body)))
        body = body[:cut] + draw(st.sampled_from(["", "\u0000", "]", '"', "\\"]))
    return HostileRequest(operation, body.encode("utf-8", "surrogatepass"))


def constrained_requests() -> st.SearchStrategy[HostileRequest]:
    """Draw a chat request whose only odd field is a schema or a grammar."""
    constraints = st.one_of(
        schema_texts().map('"json_schema":{}'.format),
        schema_texts().map(
            '"response_format":{{"type":"json_schema","json_schema":{{"schema":{}}}}}'.format
        ),
        schema_texts().map(
            '"tool_choice":"required","tools":'
            '[{{"type":"function","function":{{"name":"f","parameters":{}}}}}]'.format
        ),
        gbnf_texts().map(_text).map('"grammar":{}'.format),
    )
    needed = _NEEDED[Operation.CHAT]
    return constraints.map(
        lambda text: HostileRequest(Operation.CHAT, f"{{{needed},{text}}}".encode())
    )
