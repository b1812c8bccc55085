"""Grammars and schemas that can match an output in many ways at once, which stalls llama.cpp."""

import json
from typing import Any

import pytest

from provider_agent.adapters.base import BadRequest
from provider_agent.protocol.formats import Operation
from tests.unit.adapters.requests.prepared import HTTP_KINDS, NATIVE_KINDS, raw_body

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}

SLOW_GRAMMARS = {
    # Stalled a real llama.cpp for 8 to 25 s, where it was tried.
    "nested names": f"root ::= {'b ' * 20}\nb ::= {'c ' * 20}\n" + 'c ::= "x"? "y"? "z"?',
    "nested counts": 'root ::= b{20}\nb ::= c{20}\nc ::= "x"? "y"? "z"?',
    "two endings": 'root ::= "x" root "a" | "x" root "b"',
    "two names": 'root ::= a | b\na ::= [x-z] root "a"\nb ::= "x" root "b"',
    "optional end": 'root ::= "x" root? "y"?',
    "space at the end": 'root ::= "-" root ws | [0-9]+\nws ::= [ ]*',
    "list in a list": 'root ::= "x" ("," root)? | "(" root "," root ")"',
    "a long chain of names": "".join(f"a{n} ::= a{n + 1}\n" for n in range(2000))
    + 'a2000 ::= "z"\nroot ::= a0',
    "copies": "".join(f'a{n} ::= "x" a{n + 1} "p" | "x" a{n + 1} "q"\n' for n in range(12))
    + 'a12 ::= "z"\nroot ::= a0',
    "parts behind names": "".join(f'a{n} ::= "x" a{n + 1} o\n' for n in range(30))
    + f'a30 ::= "z"\nroot ::= a0\no ::= {chr(34)}a{chr(34)}? {"p? " * 60}\np ::= "b"',
}
FAST_GRAMMARS = {
    "json": r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,3})? ws
ws     ::= | " " | "\n" [ \t]{0,20}""",
    "arithmetic": r"""
root ::= (expr "=" ws term "\n")+
expr ::= term ([-+*/] term)*
term ::= name | num | call | "(" ws expr ")" ws
call ::= name "(" (expr ("," ws expr)*)? ")" ws
name ::= [a-z] [a-z0-9_]* ws
num  ::= [0-9]+ ws
ws   ::= [ \t\n]*""",
    "program": r"""
root      ::= statement*
statement ::= "int " name "=" sum ";" | name "=" sum ";" | "while" "(" sum ")" block |
              "if" "(" sum ")" block ("else" block)? | "return" sum ";"
block     ::= "{" statement* "}"
sum       ::= product (("+" | "-") product)*
product   ::= factor (("*" | "/") factor)*
factor    ::= name | [0-9]+ | "-" factor | name "(" (sum ("," sum)*)? ")" | "(" sum ")"
name      ::= [a-zA-Z_] [a-zA-Z_0-9]*""",
    "chess": r"""
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | "O-O" "-O"?) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?""",
    "tokens": "root ::= !<[1]> .+",
    "right recursion": 'root ::= item | item "," root\nitem ::= [a-z]+ # a comment',
    "60 optional fields": "root ::= "
    + " ".join(f'("f{n}=" v ";")?' for n in range(60))
    + "\nv ::= [^;]+",
}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def optional(number: int, value: Schema, **more: object) -> Schema:
    """An object whose properties may all be left out."""
    return {"type": "object", "properties": {f"p{n}": value for n in range(number)}, **more}


def recursive(schema: Schema) -> Schema:
    """A schema that other schemas inside it name `n`."""
    return {"$defs": {"n": schema}, **ref("n")}


def operation(kind: str) -> Schema:
    properties = {"kind": {"const": kind}, "left": ref("n"), "right": ref("n")}
    return {"type": "object", "properties": properties, "required": list(properties)}


SLOW_SCHEMAS = {
    "alternatives of objects": {"anyOf": [optional(100, STRING)] * 19},
    "properties of allOf": {"allOf": [{"anyOf": [optional(100, STRING)]}] * 19},
    "alternatives of enums": {"anyOf": [{"enum": [f"x{n}" for n in range(500)]}] * 3},
    "allOf that doubles with each reference": {
        "$defs": {f"d{n}": {"allOf": [ref(f"d{n + 1}")] * 2} for n in range(50)},
        **ref("d0"),
    },
    "allOf that repeats many properties": {
        "anyOf": [{"allOf": [ref("a")] * 20} for _ in range(40)],
        "$defs": {"a": optional(400, STRING)},
    },
    "a long chain of references": {
        "$defs": {f"d{n}": {"items": ref(f"d{n + 1}")} for n in range(450)},
        **ref("d0"),
    },
    "recursive lists": recursive(
        {"anyOf": [{"type": "array", "items": ref("n"), "minItems": n} for n in range(2)]}
    ),
    "recursive objects": recursive({"anyOf": [optional(1, ref("n")), optional(2, ref("n"))]}),
    "recursive properties": recursive({"allOf": [optional(1, ref("n")), optional(1, ref("n"))]}),
    "patterns": {"anyOf": [{"type": "string", "pattern": "x?" * 400 + str(n)} for n in range(3)]},
    "pattern of names": {"patternProperties": {"x?" * 400 + str(n): {} for n in "abc"}},
}
FAST_SCHEMAS = {
    "60 optional properties, three deep, shared": {
        "$defs": {"a": optional(60, {"type": ["string", "null"]}), "b": optional(60, ref("a"))},
        **optional(60, ref("b")),
    },
    "60 optional properties, three deep": optional(60, optional(6, optional(6, STRING))),
    "500 optional properties": optional(500, STRING),
    "tree": recursive(
        {
            "type": "object",
            "properties": {
                "label": STRING,
                "left": {"anyOf": [ref("n"), {"type": "null"}]},
                "right": {"anyOf": [ref("n"), {"type": "null"}]},
                "children": {"type": "array", "items": ref("n")},
            },
            "additionalProperties": ref("n"),
        }
    ),
    "syntax tree": recursive({"anyOf": [*map(operation, ("add", "sub")), {"type": "number"}]}),
    "any JSON": recursive(
        {"anyOf": [STRING, {"type": "array", "items": ref("n")}, optional(1, ref("n"))]}
    ),
    "20 kinds of 60 properties": {
        "oneOf": [
            optional(60, STRING, properties={"kind": {"const": n}}, required=["kind"])
            | {"properties": {"kind": {"const": n}, **optional(60, STRING)["properties"]}}
            for n in range(20)
        ]
    },
    "combined": {"allOf": [ref("a"), ref("b")], "$defs": {n: optional(20, STRING) for n in "ab"}},
}
INVALID_SCHEMAS: list[Schema] = [
    {"anyOf": [{"$ref": "#/no"}, {"$ref": "https://example.com"}, {"$ref": "#/anyOf/9"}, True]},
    {"type": [7, "object"], "properties": 7, "required": 7, "allOf": 7, "patternProperties": [7]},
    {"type": "array", "prefixItems": [{"const": {}}, {"enum": [None, ""]}], "anyOf": 7},
    {"allOf": [7, {"anyOf": [{"$ref": "#/no"}]}], "required": [7, []]},
]
_TO_ITSELF: Schema = {"$ref": "#/$defs/a"}
ENDLESS_SCHEMAS: list[Schema] = [
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    {"allOf": [_TO_ITSELF], "$defs": {"a": _TO_ITSELF}},
    {"allOf": [_TO_ITSELF], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": _TO_ITSELF}},
    {"properties": {"x": {"anyOf": [_TO_ITSELF]}}, "$defs": {"a": {"oneOf": [_TO_ITSELF]}}},
    {"type": "object", "$defs": {"a": _TO_ITSELF}},
    {"allOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"$ref": "#/%24defs/a~1b"}}},
]
TRIPLED = {f"a{n}": [{"$ref": f"#/$defs/a{n + 1}"}] * 3 for n in range(20)}
SLOW_SCHEMAS["repeated alternatives"] = {
    "$ref": "#/$defs/a0",
    "$defs": {**{name: {"anyOf": refs} for name, refs in TRIPLED.items()}, "a20": STRING},
}
SLOW_GRAMMARS["repeated alternatives"] = (
    "root ::= a0\n"
    + "".join(f"a{n} ::= a{n + 1} | a{n + 1} | a{n + 1}\n" for n in range(20))
    + 'a20 ::= "x"'
)


def chat(**fields: object) -> bytes:
    return json.dumps({"messages": [], **fields}).encode()


def tool(name: str, schema: Schema) -> Schema:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


@pytest.mark.parametrize("name", SLOW_GRAMMARS)
@pytest.mark.parametrize("field", ["grammar", "ebnf", "guided_grammar"])
def test_grammar_that_stalls_a_server_is_refused(name: str, field: str) -> None:
    with pytest.raises(BadRequest, match=field):
        raw_body("llamacpp", chat(**{field: SLOW_GRAMMARS[name]}))


@pytest.mark.parametrize("name", FAST_GRAMMARS)
def test_usual_grammar_is_allowed(name: str) -> None:
    raw_body("llamacpp", chat(grammar=FAST_GRAMMARS[name]))


@pytest.mark.parametrize(
    "text", ['root ::= ("a"', 'root ::= "a")', "root ::= ?", 'root ::= "a', "a ::= %"]
)
def test_text_that_is_no_grammar_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="grammar"):
        raw_body("llamacpp", chat(grammar=text))


def forms(schema: Schema) -> list[Schema]:
    """The fields of a chat request that may hold a schema."""
    return [
        {"json_schema": schema},
        {"guided_json": json.dumps(schema)},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema},
            }
        },
        {"response_format": {"type": "json_object", "schema": schema}},
        {"tools": [tool("f", schema)]},
    ]


@pytest.mark.parametrize("name", SLOW_SCHEMAS)
def test_schema_that_stalls_a_server_is_refused(name: str) -> None:
    for kind in NATIVE_KINDS:
        for fields in forms(SLOW_SCHEMAS[name]):
            with pytest.raises(BadRequest, match=next(iter(fields))):
                raw_body(kind, chat(**fields))


@pytest.mark.parametrize("name", FAST_SCHEMAS)
def test_usual_schema_is_allowed(name: str) -> None:
    for fields in forms(FAST_SCHEMAS[name]):
        raw_body("llamacpp", chat(**fields))


def test_invalid_schema_is_left_to_the_server() -> None:
    for schema in INVALID_SCHEMAS:
        for fields in forms(schema):
            raw_body("llamacpp", chat(**fields))


def test_schema_that_leads_only_to_itself_is_refused() -> None:
    # Regression: llama.cpp followed the references until its stack overflowed, and died.
    for schema in ENDLESS_SCHEMAS:
        for fields in forms(schema):
            with pytest.raises(BadRequest):
                raw_body("llamacpp", chat(**fields))


def test_schemas_of_passthroughs_are_not_analyzed() -> None:
    for kind in set(HTTP_KINDS) - set(NATIVE_KINDS):
        raw_body(kind, chat(**forms(SLOW_SCHEMAS["recursive lists"])[2]))


def test_schema_that_a_passthrough_has_received_is_analyzed_for_a_native_server() -> None:
    request = chat(**forms(SLOW_SCHEMAS["recursive lists"])[2])

    raw_body("openrouter", request)
    with pytest.raises(BadRequest):
        raw_body("llamacpp", request)


def test_schema_is_sent_alike_when_it_was_checked_before() -> None:
    schema = b'{ "type": "object", "title": "alike", "type": "string" }'
    request = b'{"messages":[],"json_schema":' + schema + b"}"
    sent = b'{"messages":[],"json_schema":{"type":"string","title":"alike"},"model":"m"}'

    assert [raw_body("vllm", request) for _ in range(2)] == [sent, sent]


def test_bound_holds_for_all_schemas_of_a_request_together() -> None:
    schema = optional(400, STRING)
    answer = {"response_format": {"type": "json_object", "schema": schema}}
    several = [tool(f"f{number}", schema) for number in range(4)]

    raw_body("llamacpp", chat(tools=several, **answer))
    with pytest.raises(BadRequest, match="optional parts"):
        raw_body("llamacpp", chat(**answer, json_schema=schema, guided_json=schema))
    for tools in ([tool("f", schema)] * 3, [tool("f", schema)] * 2):
        with pytest.raises(BadRequest, match="together"):
            raw_body("llamacpp", chat(tools=tools, **answer))


@pytest.mark.parametrize("more", [{}, {"cache_control": {"type": "ephemeral"}}])
def test_tools_of_one_name_count_together(more: Schema) -> None:
    # Regression: a tool with `cache_control` counted as one without a name.
    def request(*names: str) -> bytes:
        tools = [{"name": name, "input_schema": optional(400, STRING), **more} for name in names]
        tools[-1].pop("cache_control", None)
        return json.dumps({"messages": [], "max_tokens": 1, "tools": tools}).encode()

    raw_body("llamacpp", request("f", "g", "h", "i"), Operation.MESSAGES)
    with pytest.raises(BadRequest, match="together"):
        raw_body("llamacpp", request("f", "f", "f"), Operation.MESSAGES)
