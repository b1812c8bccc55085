"""Bounds on the values of a request, each with its reason.

They protect servers, which check most of these values late or not at all. A request beyond a bound
is refused, whatever the operator's `request_policy`, unless it is `pass`.
"""

from typing import Final

from provider_agent.adapters.requests.rules import Flag, Items, Number, Shapes, Size
from provider_agent.protocol.limits import KIB

# --- how much a request makes the server do ------------------------------------------------------

CHOICES: Final = Number(1, 8)
"""`n`, `n_cmpl`, `best_of`: each choice is a sequence of its own on the server, in one job. vLLM
accepts 16,384."""

PROMPTS: Final = 16
"""Prompts of one completions request: each is a sequence of its own too."""

INPUTS: Final = 2048
"""Inputs of one embeddings request, OpenAI's own limit. No tokens are generated for them."""

LOGPROBS: Final = Number(0, 20)
"""Alternatives per token, OpenAI's own limit. llama.cpp reserves memory for each: 2,000,000,000
take gigabytes in a tenth of a second."""

FLAG_OR_LOGPROBS: Final = Number(0, 20, or_flag=True)

TOP_K: Final = Number(-1, 1_000_000)
"""More than any vocabulary. vLLM answers 2^64 with status 500."""

LOOK_BACK: Final = Number(-1, 65_536)
"""`repeat_last_n`, `dry_penalty_last_n`: llama.cpp reserves memory for each of these tokens: 1.5 GB
for 200,000,000. -1 means the context."""

TOKENS: Final = Number(-1, 10_000_000)
"""A number of tokens; more than any context window."""

COUNT: Final = Number(-1, 2**31 - 1)
"""A number that the server stores in 32 bits."""

# --- lists ---------------------------------------------------------------------------------------

MESSAGES: Final = 10_000
"""Messages, input items or parts of one message: servers render each with a template."""

TOOLS: Final = 512
"""Tools: llama.cpp and vLLM compile a grammar of each. OpenAI's own limit is 128."""

STOP_WORDS: Final = Shapes(string=Size(4 * KIB), items=Items(Shapes(string=Size(4 * KIB)), 64))
"""Every stop word is searched for after every token. OpenAI's own limit is 4."""

TOKEN_IDS: Final = Items(COUNT, 4096)
"""Lists of token ids that are compared with every token."""

BAD_WORDS: Final = Items(Shapes(string=Size(KIB)), 256)
"""vLLM encodes each word, and compares it with the output after every token."""

LOGIT_BIAS: Final = Size(64 * KIB, 4)
"""Room for about 4,000 entries; the server applies all of them to every token."""

SAMPLERS: Final = Items(Shapes(string=Size(64)), 32)
"""llama.cpp runs each sampler of the list for every token; it has about 15."""

SEQUENCE_BREAKERS: Final = Items(Shapes(string=Size(64)), 16)
"""llama.cpp compares each one with the whole vocabulary."""

# --- texts that a server repeats or stores -------------------------------------------------------

IDENTIFIER: Final = Shapes(string=Size(2 * KIB), scalar=Number(-(2**63), 2**64))
"""`user` and similar: the final event of a Responses stream repeats it."""

METADATA: Final = Size(16 * KIB, 8)
"""OpenAI's own limit is 16 entries of 64 and 512 characters."""

INCLUDE: Final = Items(Shapes(string=Size(64)), 16)
"""Parts of the answer that the client asks for by name."""

STREAM: Final = Flag()
"""vLLM also takes `1`, `1.0`, `"yes"` and `"true"` for true. The agent would not recognize such a
request as streamed, and not ask for its usage."""
