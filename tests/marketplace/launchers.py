"""Starts an agent program for the scenarios: ours, or the marketplace's own `usepod-agent`.

Both read the same `agent.toml` and key file.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from provider_agent.protocol.limits import CONNECT_PATH
from tests.kit.cli_process import COMMAND, kept_variables

BINARY_VARIABLE: Final = "USEPOD_AGENT"
"""Names the `usepod-agent` binary; without it, the scenarios run only with our agent."""

ENROLLMENT_CODE: Final = "POD-ENROLL-TEST"
MAX_CONCURRENT: Final = 2

_STOP_TIMEOUT_S: Final = 30.0

_CONFIG: Final = """\
[operator]
display_name = "rig"
wallet = "11111111111111111111111111111111"
contact_email = "ops@example.com"

[coordinator]
url = "ws://127.0.0.1:{port}{path}"
enrollment_code = "{code}"

[identity]
key_path = "{key_path}"

[[backends]]
kind = "vllm"
url = "{server_url}"

[pricing]
default_input_per_1m = 500_000
default_output_per_1m = 750_000

[limits]
max_concurrent = {max_concurrent}
max_tokens_per_minute = 200_000
"""

_KEY: Final = """\
-----BEGIN USEPOD AGENT KEY-----
version: 1
created: 2026-05-19T08:00:00+00:00
secret: {secret}
public: {public}
-----END USEPOD AGENT KEY-----
"""


class Files(Struct, frozen=True):
    """The files of one agent, in the form of the marketplace's own.

    Attributes:
        folder: its home and current directory.
        public_key: its identity, 32 bytes.
    """

    folder: Path
    public_key: bytes

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def key(self) -> Path:
        return self.folder / "identity.key"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"


def write_files(folder: Path, *, port: int, server_url: str, code: str = ENROLLMENT_CODE) -> Files:
    """Write the files of an agent with a new key.

    Args:
        folder: where to write them.
        port: of the coordinator, on this machine.
        server_url: the inference server.
        code: the enrollment code.
    """
    private = Ed25519PrivateKey.generate()
    files = Files(folder, private.public_key().public_bytes_raw())
    files.config.write_text(
        _CONFIG.format(
            port=port,
            path=CONNECT_PATH,
            code=code,
            key_path=files.key,
            server_url=server_url,
            max_concurrent=MAX_CONCURRENT,
        )
    )
    files.key.touch(0o600)
    files.key.write_text(
        _KEY.format(
            secret=base64.b64encode(private.private_bytes_raw()).decode(),
            public=base64.b64encode(files.public_key).decode(),
        )
    )
    return files


class Launcher(Struct, frozen=True):
    """One agent program.

    Attributes:
        name: for the ids of tests.
        command: the program, and the options before those of `run`.
        variables: environment variables that it needs.
    """

    name: str
    command: tuple[str, ...]
    variables: dict[str, str] = {}

    @asynccontextmanager
    async def run(self, files: Files) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run the agent; stop it by SIGTERM when the block ends."""
        with files.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                *("--config", str(files.config)),
                cwd=files.folder,
                env={**kept_variables(), "HOME": str(files.folder), **self.variables},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


OUR_AGENT: Final = Launcher(
    "provider-agent",
    (str(COMMAND), "run"),
    # Not in `agent.toml`, which is that of the other agent: this machine is not the marketplace.
    {"PROVIDER_AGENT_COORDINATOR_DIALECT": "usepod"},
)

RUST_AGENT: Final = Launcher(
    "usepod-agent", (os.environ.get(BINARY_VARIABLE, ""), "--allow-insecure", "run")
)
