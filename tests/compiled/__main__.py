"""`python -m tests.compiled [pytest's arguments]`: run the tests that concern compiled modules.

`make test-compiled` runs it in the environment that has the compiled wheel. The exit code is that
of pytest, or 1 if the modules are not compiled.
"""

import sys
from typing import Final

import pytest

from tests.compiled.check import check

_TESTS: Final = (
    "tests/unit/protocol/test_byte_pieces.py",
    "tests/unit/protocol/test_stream.py",
    "tests/unit/protocol/test_stream_continuation.py",
    "tests/unit/protocol/test_stream_rewind.py",
    "tests/unit/protocol/usepod",
    "tests/unit/websocket",
    "tests/unit/adapters/http",
    "tests/unit/adapters/responses",
    "tests/unit/agent/jobs",
    "tests/unit/agent/link",
    "tests/conformance/test_agents.py::test_our_agent_conforms",
    "tests/conformance/test_usepod_agents.py::test_our_agent_conforms",
    "tests/faults/test_job_faults.py",
    "tests/faults/test_link_faults.py",
    "tests/integration/test_usepod_end_to_end.py",
)

_THROW: Final = "ignore:the (type, exc, tb) signature of throw:DeprecationWarning"
"""From Python 3.12, mypyc's coroutines pass an exception to what they await in a deprecated way.

Outside of tests, Python ignores this warning.
"""

if __name__ == "__main__":
    check()
    sys.exit(pytest.main([*_TESTS, "-W", _THROW, *sys.argv[1:]]))
