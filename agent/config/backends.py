"""What the configuration knows of each kind of backend: its usual address and what it needs."""

from typing import Final

DEFAULT_URL: Final = {
    "vllm": "http://127.0.0.1:8000",
    "llamacpp": "http://127.0.0.1:8080",
    "lmstudio": "http://127.0.0.1:1234",
    "ollama": "http://127.0.0.1:11434",
    "openrouter": "https://openrouter.ai/api",
    "venice": "https://api.venice.ai/api",
}
"""Where a server of the kind listens unless told otherwise (its own documentation)."""

PASSTHROUGH_KINDS: Final = frozenset({"openrouter", "venice"})
"""Remote services: known by their key, not by their address."""

BUILT_IN_KINDS: Final = frozenset(DEFAULT_URL) | {"openai_compatible", "echo"}
"""The kinds that come with the agent; others come through `provider_agent.adapters`."""
