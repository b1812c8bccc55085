"""Repetition counts, such as `{1000}`, in grammars and regular expressions. Servers expand them."""

import json
from typing import Any

import pytest

from provider_agent.adapters.base import BadRequest
from tests.unit.adapters.requests.prepared import raw_body

IPV6 = (
    "^(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|([0-9a-f]{1,4}:){1,7}:|([0-9a-f]{1,4}:){1,6}:[0-9a-f]{1,4}"
    "|([0-9a-f]{1,4}:){1,5}(:[0-9a-f]{1,4}){1,2}|([0-9a-f]{1,4}:){1,4}(:[0-9a-f]{1,4}){1,3})$"
)
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
HIGHEST = (2**63 - 1, 9.3e18)
SLOW_REGEXES = [
    "a{3#(b?){2000}\n",
    # Regression: llama.cpp expanded these until it had no memory left.
    *("^a{3,1}$", "(ab){3,1}", "a{3x,1}", "(a?){2000x}", "[]]{+3,1}", "a{ 3 , 1 "),
    *("^(a?){2000}$", "(a?){101}", "(a?){,101}", "(a|b){0,101}", "(a?){101,}", "a{1001}"),
    *("((a?){30}){30}", "(a?){100}(b?){100}(c?){100}(d?){100}(e?){100}(f?){100}"),
    *("(" + "a?" * 50 + "){20}", "(x?[)]y?){100}(" * 2 + "a" + ")" * 2 + "(b?b?b?b?){99}"),
    *(
        "([])]" + "x?" * 20 + "){100}",
        "(" + "x?" * 20 + "[](]){100}[])]",
        "a?{600}",
        "a{99}{99}{99}",
    ),
]
FAST_REGEXES = [
    *("^[a-z]{1,64}$", "[0-9]{4}-[0-9]{2}-[0-9]{2}", r"\d{3}", ".{0,1000}", "(ab){3}", r"\({900}"),
    *("^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])[.]){3}(25[0-5]|1?[0-9]?[0-9])$", IPV6),
    *("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", r"^\{1x[{0-9}]{3,}$", "{a1}"),
]
SLOW_GRAMMARS = [
    *('root ::= "a"{3,1}', 'root ::= ("a" "b"){3,1}', "root ::= [a-z] { 3 , 1 }"),
    *('root ::= a{3,1}\na ::= "x"', 'start: "a" ~ 3..1', 'root ::= "a"{3,#\n1}'),
    *(
        'root ::= "{1#" ("a"?){1000}\n',
        'root ::= ("a"?){' + "#\n" * 70 + "1000}",
        'start: ["a"]~1000',
    ),
    'root ::= ("a"?){1000} ("b"?){1000} ("c"?){1000} ("d"?){1000}',
    *('root ::= ("a"?) { 1000 }', 'root ::= ("a"?) #]\n{1000}', 'root ::= ("a"?){ #x\n1000}'),
    *('root ::= a{1000}\na ::= "x"?', 'root ::= (("a"?){30} ")"){30}', 'start: ("a"?) ~ 1..1000'),
]
FAST_GRAMMARS = [
    'root ::= [a-z]{1,64} digit{4} "-" digit{2} ("," digit{1,3}){0,10}\ndigit ::= [0-9]',
    'root ::= "{" ws (item ("," item)*)? "}"',
]
# Regression: llama.cpp expanded the counts of these until it had no memory left.
INVALID_BOUNDS: list[dict[str, Any]] = [
    *({f"min{word}": 5, f"max{word}": 3} for word in ("Length", "Items", "Properties", "Contains")),
    *({"minLength": 5.9, "maxItems": 9, "maxLength": 3.0}, {"minItems": 3.5, "maxItems": 3}),
    # llama.cpp stores these in 32 bits, so that 2^32 + 3 becomes 3.
    *({"minLength": 5, "maxLength": 2**32 + 3}, {"minItems": 2**32 + 3}),
    *({low: 10, high: -10} for low in LOWER for high in UPPER),
    # An integer with one bound, which llama.cpp writes as the count `{16,15}`.
    *({"type": "integer", "minimum": low} for low in (2 * 10**15, 10**15 + 1, 1e18, 2e15)),
    *({"type": "integer", "exclusiveMinimum": 2 * 10**17, "maximum": high} for high in HIGHEST),
    {"type": ["null", "integer"], "minimum": 2 * 10**15, "exclusiveMaximum": 2**63},
    {"type": "integer", "minimum": -(2**63), "maximum": -2 * 10**15},
    {"type": "integer", "maximum": 2**64 - 2 * 10**15},
    {"type": "integer", "exclusiveMaximum": -2 * 10**15},
]
VALID_BOUNDS: list[dict[str, Any]] = [
    *({"minLength": 3, "maxLength": 3}, {"minItems": 0, "maxItems": 0}, {"maxLength": 2**31 - 1}),
    *({"type": "integer", "minimum": 0, "maximum": high} for high in (2**53 - 1, 2**63 - 1)),
    *({"type": "integer", "minimum": 10**15}, {"type": "number", "minimum": 1e18}),
    *({"type": "integer", "minimum": 2 * 10**15, "maximum": 3 * 10**15}, {"minimum": 5}),
    *({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, {"type": "integer"}),
    {"minimum": 1, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": False},
    {"properties": {"minLength": {"type": "string"}, "maximum": {"minimum": 3}}},
]
ALL_SLOW = [
    *({field: text} for text in SLOW_REGEXES for field in ("regex", "guided_regex")),
    *({"json_schema": {"items": {"type": "string", "pattern": text}}} for text in SLOW_REGEXES),
    *({"guided_json": json.dumps({"patternProperties": {text: {}}})} for text in SLOW_REGEXES),
    *({"structured_outputs": {"regex": text}} for text in SLOW_REGEXES),
    *({field: text} for text in SLOW_GRAMMARS for field in ("grammar", "ebnf", "guided_grammar")),
    *({"response_format": {"format": {"grammar": text}}} for text in SLOW_GRAMMARS),
    *(
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
        for schema in INVALID_BOUNDS
    ),
    *({"guided_json": json.dumps({"not": [schema]})} for schema in INVALID_BOUNDS),
    *({"response_format": {"json_schema": {"schema": schema}}} for schema in INVALID_BOUNDS),
    {"json_schema": {"anyOf": [{"pattern": f"^(a?){{20}}b{i}$"} for i in range(400)]}},
]
ALL_FAST = [
    *({"json_schema": schema} for schema in VALID_BOUNDS),
    *({"guided_regex": text} for text in FAST_REGEXES),
    *({"grammar": text} for text in FAST_GRAMMARS),
    {"json_schema": {"anyOf": [{"pattern": text} for text in FAST_REGEXES]}},
    {"json_schema": {"anyOf": [{"pattern": f"^[a-z]{{1,64}}{i}$"} for i in range(400)]}},
]


@pytest.mark.parametrize("fields", ALL_SLOW)
def test_counts_that_stall_a_server_are_refused(fields: dict[str, object]) -> None:
    text = json.dumps({"messages": [], **fields})
    with pytest.raises(BadRequest, match=next(iter(fields))):
        raw_body("llamacpp", text.encode())


@pytest.mark.parametrize("fields", ALL_FAST)
def test_usual_counts_are_allowed(fields: dict[str, object]) -> None:
    raw_body("llamacpp", json.dumps({"messages": [], **fields}).encode())


@pytest.mark.parametrize("field", ["grammar", "guided_regex"])
def test_escapes_do_not_hide_counts(field: str) -> None:
    text = r"(a?)\u007b1\u00300\u0030}"
    with pytest.raises(BadRequest, match=field):
        raw_body("llamacpp", f'{{"messages":[],"{field}":"{text}"}}'.encode())
