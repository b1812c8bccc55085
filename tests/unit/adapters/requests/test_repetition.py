"""Repetition counts, such as `{1000}`, in grammars and regular expressions. Servers expand them."""

import json

import pytest

from provider_agent.adapters.base import BadRequest
from tests.unit.adapters.requests.prepared import raw_body

IPV6 = (
    "^(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|([0-9a-f]{1,4}:){1,7}:|([0-9a-f]{1,4}:){1,6}:[0-9a-f]{1,4}"
    "|([0-9a-f]{1,4}:){1,5}(:[0-9a-f]{1,4}){1,2}|([0-9a-f]{1,4}:){1,4}(:[0-9a-f]{1,4}){1,3})$"
)
SLOW_REGEXES = [
    "a{3#(b?){2000}\n",
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
    "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
]
SLOW_GRAMMARS = [
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
ALL_SLOW = [
    *({field: text} for text in SLOW_REGEXES for field in ("regex", "guided_regex")),
    *({"json_schema": {"items": {"type": "string", "pattern": text}}} for text in SLOW_REGEXES),
    *({"guided_json": json.dumps({"patternProperties": {text: {}}})} for text in SLOW_REGEXES),
    *({"structured_outputs": {"regex": text}} for text in SLOW_REGEXES),
    *({field: text} for text in SLOW_GRAMMARS for field in ("grammar", "ebnf", "guided_grammar")),
    *({"response_format": {"format": {"grammar": text}}} for text in SLOW_GRAMMARS),
    {"json_schema": {"anyOf": [{"pattern": f"^(a?){{20}}b{i}$"} for i in range(400)]}},
]
ALL_FAST = [
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
