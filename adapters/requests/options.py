"""Rules for fields that hold a few settings: reasoning, and the form of the output."""

from typing import Final

from provider_agent.adapters.requests.bounds import IDENTIFIER, TOKENS
from provider_agent.adapters.requests.grammars import GRAMMAR, SCHEMA
from provider_agent.adapters.requests.rules import Flag, Object, Shapes

REASONING: Final = Object(
    {
        **dict.fromkeys(("effort", "summary", "generate_summary"), IDENTIFIER),
        "max_tokens": TOKENS,
        "enabled": Flag(),
        "exclude": Flag(),
    }
)
"""`reasoning` of Responses, OpenRouter and Venice."""

THINKING: Final = Shapes(
    mapping=Object({"type": IDENTIFIER, "budget_tokens": TOKENS, "display": IDENTIFIER}),
    scalar=Flag(),
)
"""`thinking` of Messages, and of servers that have it in chat."""

RESPONSE_FORMAT: Final = Object(
    {
        "type": IDENTIFIER,
        "grammar": GRAMMAR,
        **dict.fromkeys(("json_schema", "schema", "format", "structures", "triggers"), SCHEMA),
    }
)
"""`response_format` of OpenAI, of llama.cpp (`schema`) and of vLLM (structural tags)."""

TEXT: Final = Object({"format": SCHEMA, "verbosity": IDENTIFIER})
"""`text` of Responses."""

OUTPUT_CONFIG: Final = Object({"format": SCHEMA, "effort": IDENTIFIER})
"""`output_config` of Messages."""
