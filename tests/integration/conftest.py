"""The fixtures of real servers."""

from tests.kit.llamacpp import llamacpp_factory, llamacpp_server, stopping_model, tiny_model
from tests.kit.subjects import subject

__all__ = ["llamacpp_factory", "llamacpp_server", "stopping_model", "subject", "tiny_model"]
