"""Rules for the inputs of completions and embeddings: texts and token ids.

An object is refused: llama.cpp, SGLang and OpenRouter accept objects with images and URLs here.
"""

from typing import Final

import msgspec
from msgspec import Raw

from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.requests.rules import Review

_LIST: Final = msgspec.json.Decoder(list[Raw])
_TOKEN_IDS: Final = b"0123456789,[] \t\r\n"


class Prompt(msgspec.Struct, frozen=True):
    """A text or a list of token ids, or a list of at most `most` of them."""

    most: int

    def check(self, value: Raw, name: str, review: Review) -> object:  # noqa: ARG002
        """See `Rule.check`."""
        first = chr(memoryview(value)[0])  # shows the JSON type; n: null
        if first in '"n' or (first == "[" and _is_list_of_token_ids(value)):
            return value
        if first != "[":
            raise RefusedRequest(f"{name} has the wrong type")
        prompts = _LIST.decode(value)
        if len(prompts) > self.most:
            raise RefusedRequest(f"{name} has over {self.most} items")
        for prompt in prompts:
            if memoryview(prompt)[0] != ord('"') and not _is_list_of_token_ids(prompt):
                raise RefusedRequest(f"{name} contains a value that is neither text nor token ids")
        return value


def _is_list_of_token_ids(value: Raw) -> bool:
    """Whether the value is one list of numbers. Decodes nothing: there may be 300,000."""
    text = bytes(value)
    return not text.translate(None, _TOKEN_IDS) and text.count(b"[") == 1
