"""These tests run only if TEST_VLLM_URL is set; see `__main__`."""

import os
from typing import Final

from tests.kit.adapters_under_test import VLLM_URL, adapter
from tests.kit.llamacpp import llamacpp_server, tiny_model

__all__ = ["adapter", "llamacpp_server", "tiny_model"]

VENV: Final = os.environ.get("TEST_VLLM_VENV", "")
"""The environment that vLLM is installed in, for tests that need a server of their own."""

collect_ignore_glob = [] if VLLM_URL else ["test_*.py"]
if not VENV:
    collect_ignore_glob.append("test_failures.py")
