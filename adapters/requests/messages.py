"""Rules for messages, their parts, and tools: the fields and types that a request may contain.

Sources: the API references of OpenAI and Anthropic, and the request schemas of vLLM
(`entrypoints/openai/*/protocol.py`, `entrypoints/anthropic/protocol.py`), SGLang, llama.cpp and
Ollama (`openai/`, `anthropic/`).

A message or part of an unknown type is refused, not removed: without it the model would answer
another question. Left out on purpose: ids of files, audio and items that are stored in the
operator's account (`file_id`, `audio.id`, `item_reference`), the lifetime of a cache
(`cache_control.ttl`), tools inside messages (SGLang, OpenRouter), and tensors (`image_embeds`).
"""

from typing import Final

from provider_agent.adapters.requests.bounds import IDENTIFIER, MESSAGES, TOOLS
from provider_agent.adapters.requests.grammars import SCHEMA, Tool
from provider_agent.adapters.requests.media import DATA, URL, URL_OBJECT
from provider_agent.adapters.requests.rules import Anything, Fields, Items, Object, Shapes, Typed

_ANY: Final = Anything()
_TEXT: Final = Shapes(string=_ANY)
CACHE_CONTROL: Final = Object({"type": None})
_TEXT_PART: Final[Fields] = {
    "type": None,
    "text": None,
    "cache_control": CACHE_CONTROL,
    "annotations": None,
    "citations": None,
    "logprobs": None,
}

# --- chat completions ----------------------------------------------------------------------------

_CHAT_PARTS: Final[dict[str, Fields]] = {
    "text": _TEXT_PART,
    "refusal": {"type": None, "refusal": None},
    "thinking": {"type": None, "thinking": None, "text": None, "signature": None},
    "reasoning": {"type": None, "text": None, "reasoning": None},
    "image_url": {"type": None, "image_url": URL_OBJECT, "cache_control": CACHE_CONTROL},
    "audio_url": {"type": None, "audio_url": URL_OBJECT},
    "video_url": {"type": None, "video_url": URL_OBJECT},
    "input_audio": {"type": None, "input_audio": Object({"data": DATA, "format": None})},
    "file": {"type": None, "file": Object({"file_data": DATA, "filename": None})},
}

_TOOL_CALL: Final = Object(
    {
        **dict.fromkeys(("id", "index", "type", "extra_content")),
        "function": Object({"name": _TEXT, "arguments": None}, needed=("name",)),
        "custom": Object({"name": _TEXT, "input": None}, needed=("name",)),
    }
)
_CHAT_MESSAGE: Final = Object(
    {
        "role": _TEXT,
        "content": Shapes(string=_ANY, items=Items(Typed(_CHAT_PARTS, required=True), MESSAGES)),
        **dict.fromkeys(("name", "tool_call_id", "function_call", "refusal")),
        "tool_calls": Items(_TOOL_CALL, MESSAGES),
        **dict.fromkeys(("reasoning", "reasoning_content", "reasoning_details", "thinking")),
        **dict.fromkeys(("annotations", "prefix", "partial", "phase")),
        "cache_control": CACHE_CONTROL,
    },
    needed=("role",),
)
CHAT_MESSAGES: Final = Items(_CHAT_MESSAGE, MESSAGES)

_FUNCTION: Final = Object(
    {
        "name": _TEXT,
        "description": _TEXT,
        "parameters": SCHEMA,
        "strict": None,
        "defer_loading": None,
    },
    needed=("name",),
)
_CUSTOM: Final = Object({"name": _TEXT, "description": _TEXT, "format": SCHEMA}, needed=("name",))
CHAT_TOOLS: Final = Items(
    Tool(
        {
            "function": {
                "type": None,
                "function": _FUNCTION,
                "cache_control": CACHE_CONTROL,
                "defer_loading": None,
            },
            "custom": {"type": None, "custom": _CUSTOM},
        },
        needed={"function": ("function",), "custom": ("custom",)},
    ),
    TOOLS,
)

# --- responses -----------------------------------------------------------------------------------

_RESPONSES_PARTS: Final[dict[str, Fields]] = {
    "input_text": _TEXT_PART,
    "output_text": _TEXT_PART,
    "text": _TEXT_PART,
    "summary_text": _TEXT_PART,
    "reasoning_text": _TEXT_PART,
    "refusal": {"type": None, "refusal": None},
    "input_image": {"type": None, "image_url": URL, "detail": None},
    "input_file": {"type": None, "file_data": DATA, "filename": None, "file_url": URL},
    "input_audio": {
        "type": None,
        "input_audio": Object({"data": DATA, "format": None}),
    },
}
_RESPONSES_CONTENT: Final = Shapes(
    string=_ANY, items=Items(Typed(_RESPONSES_PARTS, required=True), MESSAGES)
)
_RESPONSES_MESSAGE: Final[Fields] = {
    **dict.fromkeys(("type", "role", "id", "status", "phase", "name")),
    "content": _RESPONSES_CONTENT,
}
_CALL: Final[Fields] = dict.fromkeys(
    ("type", "id", "call_id", "name", "arguments", "input", "status")
)
_CALL_OUTPUT: Final[Fields] = {
    **dict.fromkeys(("type", "id", "call_id", "status")),
    "output": _RESPONSES_CONTENT,
}
_RESPONSES_ITEMS: Final[dict[str, Fields]] = {
    "": _RESPONSES_MESSAGE,
    "message": _RESPONSES_MESSAGE,
    "function_call": _CALL,
    "function_call_output": _CALL_OUTPUT,
    "custom_tool_call": _CALL,
    "custom_tool_call_output": _CALL_OUTPUT,
    "reasoning": {
        **dict.fromkeys(("type", "id", "encrypted_content", "status", "signature", "format")),
        "summary": _RESPONSES_CONTENT,
        "content": _RESPONSES_CONTENT,
    },
}
RESPONSES_INPUT: Final = Shapes(
    string=_ANY, items=Items(Typed(_RESPONSES_ITEMS, required=True), MESSAGES)
)
RESPONSES_TOOLS: Final = Items(
    Tool(
        {
            "function": {
                "type": None,
                "name": _TEXT,
                "description": _TEXT,
                "parameters": SCHEMA,
                "strict": None,
                "defer_loading": None,
            },
            "custom": {"type": None, "name": _TEXT, "description": _TEXT, "format": SCHEMA},
        },
        needed={"function": ("name",), "custom": ("name",)},
    ),
    TOOLS,
)

# --- messages ------------------------------------------------------------------------------------

_SOURCES: Final[dict[str, Fields]] = {
    "base64": {"type": None, "media_type": None, "data": DATA},
    "text": {"type": None, "media_type": None, "data": None},
    "url": {"type": None, "url": URL},
}
_IMAGE: Final[Fields] = {
    "type": None,
    "source": Typed(_SOURCES, required=True),
    "cache_control": CACHE_CONTROL,
}
_RESULT_PARTS: Final[dict[str, Fields]] = {
    "text": _TEXT_PART,
    "image": _IMAGE,
    "document": {**_IMAGE, **dict.fromkeys(("title", "context", "citations"))},
    "search_result": {
        **dict.fromkeys(("type", "citations")),
        **dict.fromkeys(("source", "title"), _TEXT),
        "content": Items(Typed({"text": _TEXT_PART}, required=True), MESSAGES),
        "cache_control": CACHE_CONTROL,
    },
    "tool_reference": {"type": None, "tool_name": None},
}
_MESSAGES_PARTS: Final[dict[str, Fields]] = {
    **_RESULT_PARTS,
    "thinking": {"type": None, "thinking": None, "signature": None},
    "redacted_thinking": {"type": None, "data": None},
    "tool_use": {
        **dict.fromkeys(("type", "id", "name", "input")),
        "cache_control": CACHE_CONTROL,
    },
    "tool_result": {
        **dict.fromkeys(("type", "tool_use_id", "is_error")),
        "content": Shapes(string=_ANY, items=Items(Typed(_RESULT_PARTS, required=True), MESSAGES)),
        "cache_control": CACHE_CONTROL,
    },
}
MESSAGES_MESSAGES: Final = Items(
    Object(
        {
            "role": _TEXT,
            "content": Shapes(
                string=_ANY, items=Items(Typed(_MESSAGES_PARTS, required=True), MESSAGES)
            ),
        },
        needed=("role",),
    ),
    MESSAGES,
)
MESSAGES_SYSTEM: Final = Shapes(
    string=_ANY, items=Items(Typed({"text": _TEXT_PART}, required=True), MESSAGES)
)
_MESSAGES_TOOL: Final[Fields] = {
    "type": None,
    "name": _TEXT,
    "description": _TEXT,
    "strict": None,
    "defer_loading": None,
    "input_schema": SCHEMA,
    "input_examples": SCHEMA,
    "cache_control": CACHE_CONTROL,
}
MESSAGES_TOOLS: Final = Items(
    Tool(
        {"": _MESSAGES_TOOL, "custom": _MESSAGES_TOOL},
        needed=dict.fromkeys(("", "custom"), ("name", "input_schema")),
    ),
    TOOLS,
)

# --- the choice of a tool ------------------------------------------------------------------------

_NAMED: Final = Object({"name": None})
_CHOICE: Final[Fields] = {
    "type": None,
    "name": IDENTIFIER,
    "function": _NAMED,
    "custom": _NAMED,
    "mode": None,
    "tools": Items(None, TOOLS),
    "allowed_tools": Object({"mode": None, "tools": Items(None, TOOLS)}),
    "disable_parallel_tool_use": None,
}
TOOL_CHOICE: Final = Shapes(
    string=_ANY,
    mapping=Typed(
        dict.fromkeys(
            ("function", "custom", "allowed_tools", "tool", "auto", "any", "none"), _CHOICE
        )
    ),
)
