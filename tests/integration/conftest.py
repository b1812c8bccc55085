"""Fixtures for backends, real llama.cpp servers and a browser."""

from tests.kit.adapters_under_test import adapter
from tests.kit.browser import browser, chromium
from tests.kit.llamacpp import llamacpp_factory, llamacpp_server, stopping_model, tiny_model

__all__ = [
    "adapter",
    "browser",
    "chromium",
    "llamacpp_factory",
    "llamacpp_server",
    "stopping_model",
    "tiny_model",
]
