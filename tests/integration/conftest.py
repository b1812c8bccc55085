"""Fixtures for backends and real llama.cpp servers."""

from tests.kit.adapters_under_test import adapter
from tests.kit.llamacpp import llamacpp_factory, llamacpp_server, stopping_model, tiny_model

__all__ = ["adapter", "llamacpp_factory", "llamacpp_server", "stopping_model", "tiny_model"]
