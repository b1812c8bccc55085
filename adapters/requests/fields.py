"""The fields of a request that may be sent to a server, by operation.

`STANDARD` are fields of OpenAI's and Anthropic's APIs that change only the answer itself. `NATIVE`
are fields with which vLLM, SGLang, llama.cpp, Ollama and LM Studio extend them: sampling, grammars
and the rendering of the prompt. A server ignores or rejects those that it does not have, so all
native servers receive all of them.

Left out on purpose, with what they would do:

- `models`, `fallbacks`, `provider`, `plugins`, `preset`, `service_tier`, `speed`, `x_search`,
  `web_search_options`, `venice_parameters`, `modalities`, `image_config`, `prediction`: spend the
  operator's money on another model, provider, speed or service.
- `prompt` and `conversation` of Responses, `previous_response_id`, `background: true`,
  `store: true`, `container`, `mcp_servers`: objects and jobs in the operator's account or in the
  server's memory.
- `kv_transfer_params`, `ec_transfer_params`, `vllm_xargs`, `prompt_embeds`, `priority`,
  `request_id`, `session_id`, `use_beam_search`, `mm_processor_kwargs`, `media_io_kwargs` (vLLM);
  `bootstrap_*`, `lora_path`, `custom_logit_processor`, `rid`, `input_ids`, `session_params`
  (SGLang); `api_base`, `api_key`, `base_url` (LiteLLM); `id_slot`, `lora`, `n_cache_reuse`,
  `grammar_lazy`, `grammar_triggers` (llama.cpp); `keep_alive`, `options` (Ollama); `ttl`,
  `draft_model`, `integrations` (LM Studio): internals of the server.
- `chat_template`: a program that the server runs.
- `echo` and `prompt_logprobs`: vLLM computes the probability of every token for each token of the
  prompt, which takes gigabytes.
"""

from collections.abc import Mapping
from typing import Final

from provider_agent.adapters.requests import bounds, messages, options
from provider_agent.adapters.requests.grammars import GRAMMAR, REGEX, SCHEMA
from provider_agent.adapters.requests.prompts import Prompt
from provider_agent.adapters.requests.rules import Anything, Fields, Flag, Object, Shapes, Size
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.limits import KIB

FieldTable = Mapping[Operation, Fields]


_SHARED: Final[Fields] = {
    "model": None,
    "stream": bounds.STREAM,
    **dict.fromkeys(("temperature", "top_p")),
}

_OPENAI_SAMPLING: Final[Fields] = {
    **_SHARED,
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "seed")),
    "stream_options": Object(
        dict.fromkeys(("include_usage", "include_obfuscation", "continuous_usage_stats"))
    ),
    "logit_bias": bounds.LOGIT_BIAS,
    "n": bounds.CHOICES,
    "stop": bounds.STOP_WORDS,
    "max_tokens": bounds.TOKENS,
    "user": bounds.IDENTIFIER,
}

_TOOL_USE: Final[Fields] = {"tool_choice": messages.TOOL_CHOICE, "parallel_tool_calls": None}

STANDARD: Final[FieldTable] = {
    Operation.CHAT: {
        **_OPENAI_SAMPLING,
        **_TOOL_USE,
        "messages": messages.CHAT_MESSAGES,
        "tools": messages.CHAT_TOOLS,
        "max_completion_tokens": bounds.TOKENS,
        "logprobs": bounds.FLAG_OR_LOGPROBS,
        "top_logprobs": bounds.LOGPROBS,
        "response_format": options.RESPONSE_FORMAT,
        "reasoning_effort": bounds.IDENTIFIER,
        "verbosity": bounds.IDENTIFIER,
        "safety_identifier": bounds.IDENTIFIER,
        "prompt_cache_key": bounds.IDENTIFIER,
        "metadata": bounds.METADATA,
        "store": Flag(removed=b"true"),
    },
    Operation.COMPLETIONS: {
        **_OPENAI_SAMPLING,
        "prompt": Prompt(bounds.PROMPTS),
        "suffix": None,
        "best_of": bounds.CHOICES,
        "logprobs": bounds.FLAG_OR_LOGPROBS,
    },
    Operation.EMBEDDINGS: {
        "model": None,
        "stream": bounds.STREAM,
        "input": Prompt(bounds.INPUTS),
        "dimensions": bounds.COUNT,
        "encoding_format": bounds.IDENTIFIER,
        "user": bounds.IDENTIFIER,
    },
    Operation.RESPONSES: {
        **_SHARED,
        **_TOOL_USE,
        "input": messages.RESPONSES_INPUT,
        "instructions": Shapes(string=Anything()),
        "tools": messages.RESPONSES_TOOLS,
        "max_output_tokens": bounds.TOKENS,
        "max_tool_calls": bounds.COUNT,
        "top_logprobs": bounds.LOGPROBS,
        "text": options.TEXT,
        "reasoning": options.REASONING,
        "include": bounds.INCLUDE,
        "truncation": bounds.IDENTIFIER,
        "stream_options": Object({"include_obfuscation": None}),
        "user": bounds.IDENTIFIER,
        "safety_identifier": bounds.IDENTIFIER,
        "prompt_cache_key": bounds.IDENTIFIER,
        "metadata": bounds.METADATA,
        "store": Flag(removed=b"true"),
        "background": Flag(removed=b"true"),
    },
    Operation.MESSAGES: {
        **_SHARED,
        "messages": messages.MESSAGES_MESSAGES,
        "system": messages.MESSAGES_SYSTEM,
        "tools": messages.MESSAGES_TOOLS,
        "tool_choice": messages.TOOL_CHOICE,
        "max_tokens": bounds.TOKENS,
        "stop_sequences": bounds.STOP_WORDS,
        "top_k": bounds.TOP_K,
        "thinking": options.THINKING,
        "output_config": options.OUTPUT_CONFIG,
        "output_format": Shapes(mapping=SCHEMA),
        "metadata": bounds.METADATA,
    },
    Operation.COUNT_TOKENS: {
        "model": None,
        "stream": bounds.STREAM,
        "messages": messages.MESSAGES_MESSAGES,
        "system": messages.MESSAGES_SYSTEM,
        "tools": messages.MESSAGES_TOOLS,
        "tool_choice": messages.TOOL_CHOICE,
        "thinking": options.THINKING,
        "output_config": options.OUTPUT_CONFIG,
    },
}

SAMPLING: Final[Fields] = {
    **dict.fromkeys(("min_p", "top_a", "typical_p", "top_n_sigma", "temperature_last")),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "length_penalty")),
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "seed")),
    **dict.fromkeys(("dynatemp_range", "dynatemp_exponent", "smoothing_factor")),
    **dict.fromkeys(("xtc_probability", "xtc_threshold")),
    **dict.fromkeys(("mirostat", "mirostat_tau", "mirostat_eta")),
    **dict.fromkeys(("adaptive_target", "adaptive_decay")),
    **dict.fromkeys(("dry_multiplier", "dry_base")),
    "dry_allowed_length": bounds.COUNT,
    "dry_penalty_last_n": bounds.LOOK_BACK,
    "dry_sequence_breakers": bounds.SEQUENCE_BREAKERS,
    "repeat_last_n": bounds.LOOK_BACK,
    "top_k": bounds.TOP_K,
    "min_keep": bounds.TOP_K,
    "samplers": bounds.SAMPLERS,
    "min_tokens": bounds.TOKENS,
    "n_predict": bounds.TOKENS,
    "n_keep": bounds.TOKENS,
    "n_discard": bounds.TOKENS,
    "n_indent": bounds.LOOK_BACK,
    "n_probs": bounds.LOGPROBS,
    "n_cmpl": bounds.CHOICES,
    "t_max_predict_ms": bounds.COUNT,
    "post_sampling_probs": None,
    "stop_token_ids": bounds.TOKEN_IDS,
    "allowed_token_ids": bounds.TOKEN_IDS,
    "logprob_token_ids": bounds.TOKEN_IDS,
    "bad_words": bounds.BAD_WORDS,
    **dict.fromkeys(("ignore_eos", "include_stop_str_in_output", "no_stop_trim")),
    **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens")),
    "truncate_prompt_tokens": bounds.TOKENS,
    "truncation_side": bounds.IDENTIFIER,
    **dict.fromkeys(("return_tokens_as_token_ids", "return_token_ids", "return_tokens")),
    **dict.fromkeys(("timings_per_token", "return_progress", "cache_prompt")),
    "cache_salt": bounds.IDENTIFIER,
}
"""How the next token is chosen, where generation stops, and what is reported about both."""

GRAMMARS: Final[Fields] = {
    "grammar": GRAMMAR,
    "ebnf": GRAMMAR,
    "guided_grammar": GRAMMAR,
    "regex": REGEX,
    "guided_regex": REGEX,
    "json_schema": SCHEMA,
    "guided_json": SCHEMA,
    "guided_choice": SCHEMA,
    "guided_whitespace_pattern": REGEX,
    "response_format": options.RESPONSE_FORMAT,
    "structured_outputs": Object(
        {
            "json": SCHEMA,
            "choice": SCHEMA,
            "regex": REGEX,
            "grammar": GRAMMAR,
            "structural_tag": SCHEMA,
            "whitespace_pattern": REGEX,
            **dict.fromkeys(("json_object", "disable_any_whitespace")),
            "disable_additional_properties": None,
        }
    ),
}
"""What the output must match."""

_TEMPLATE_SWITCHES: Final = Object(
    {
        **dict.fromkeys(
            ("enable_thinking", "thinking", "clear_thinking", "preserve_thinking"), Flag()
        ),
        "thinking_budget": bounds.TOKENS,
        "reasoning_effort": bounds.IDENTIFIER,
    }
)
"""Other names are removed: the server passes all names on to the rendering of the template, also
`chat_template` and `tools`."""

RENDERING: Final[Fields] = {
    "chat_template_kwargs": _TEMPLATE_SWITCHES,
    "enable_thinking": Flag(),
    "thinking": options.THINKING,
    "thinking_budget": bounds.TOKENS,
    "thinking_budget_tokens": bounds.TOKENS,
    "thinking_token_budget": bounds.TOKENS,
    "reasoning": options.REASONING,
    "reasoning_format": bounds.IDENTIFIER,
    **dict.fromkeys(("include_reasoning", "separate_reasoning", "stream_reasoning")),
    **dict.fromkeys(("add_generation_prompt", "continue_final_message")),
    **dict.fromkeys(("add_special_tokens", "parse_tool_calls")),
    "documents": Size(1024 * KIB, 16),
}
"""How messages become a prompt, and how the answer is split into reasoning and content."""

NATIVE: Final[FieldTable] = {
    Operation.CHAT: {**SAMPLING, **GRAMMARS, **RENDERING},
    Operation.COMPLETIONS: {**SAMPLING, **GRAMMARS, "add_special_tokens": None},
    Operation.RESPONSES: {
        **SAMPLING,
        **GRAMMARS,
        "chat_template_kwargs": _TEMPLATE_SWITCHES,
        "stop": bounds.STOP_WORDS,
        "logit_bias": bounds.LOGIT_BIAS,
    },
    Operation.MESSAGES: {**SAMPLING, "chat_template_kwargs": _TEMPLATE_SWITCHES},
    Operation.COUNT_TOKENS: {"chat_template_kwargs": _TEMPLATE_SWITCHES},
    Operation.EMBEDDINGS: {
        **dict.fromkeys(("add_special_tokens", "normalize", "embd_normalize", "truncate")),
        "truncate_prompt_tokens": bounds.TOKENS,
        "input_type": bounds.IDENTIFIER,
    },
}

MEANINGFUL: Final = frozenset(
    {
        *("previous_response_id", "previous_response", "conversation", "background"),
        *("prompt", "prompt_embeds", "input_ids", "previous_input_messages"),
    }
)
"""Fields that are never removed, but fail the job, even with `request_policy = "strip"`: without
them the server would answer another question."""
