"""The constants of the protocol, with units in their names and the reasons for their values."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

SUBPROTOCOL: Final = "provider-agent.v1"
"""Required in the WebSocket upgrade, so that a server of another protocol is noticed at once."""

USEPOD_DIALECT: Final = "usepod"
"""The name of the JSON dialect of the Use Pod marketplace, which has no subprotocol."""

CONNECT_PATH: Final = "/provider/connect"
"""The path at which the reference coordinator accepts agents."""

MOVED: Final = 4002
"""The close code of a coordinator that stops while others at the same address continue the
sessions of its agents."""

REPLACED: Final = 4001
"""Close code: another connection with the same key replaced this one. It is from the private range
of RFC 6455, because no standard code means that the agent must not reconnect. A reconnect would
replace the other connection in turn."""

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer in a frame: JavaScript's `Number.MAX_SAFE_INTEGER`. JavaScript encoders send
larger numbers as floats."""

# --- sizes ----------------------------------------------------------------------------------------

MAX_REQUEST_BYTES: Final = 16 * MIB
"""The largest request body of a job, which may contain images in base64."""

MAX_MESSAGE_TO_AGENT_BYTES: Final = MIB
"""The largest message that an agent accepts. Requests may be larger, and travel in pieces, so that
no frame waits long behind another."""

MIN_MESSAGE_TO_COORDINATOR_BYTES: Final = MIB
"""The lowest message limit that a coordinator may set in `Welcome.max_message_bytes`: the
`Capabilities` of a large catalog fits in it."""

MAX_MESSAGE_TO_COORDINATOR_BYTES: Final = 4 * MIB
"""What the reference coordinator accepts, and sends as `Welcome.max_message_bytes`."""

BATCH_BYTES: Final = 128 * KIB
"""The size at which a writer stops filling a message: large enough to share the cost of a send
among many chunks, small enough that a control frame does not wait long behind it."""

CHUNK_BYTES: Final = 64 * KIB
"""The largest `Chunk` of the reference agent and `RequestChunk` of the reference coordinator: jobs
take turns, one chunk each."""

WINDOW_BYTES: Final = MIB
"""Unacknowledged bytes per job by default: some seconds of the fastest text stream. A thousand
stopped consumers cost the agent at most a gigabyte."""

MIN_WINDOW_BYTES: Final = 16 * KIB
"""The smallest window that a coordinator may set in `Welcome.window_bytes`. A smaller one could not
hold the largest event of common servers, and would throttle these servers."""

MAX_FRAMES_PER_MESSAGE: Final = 16_384
"""More than a batch of the smallest job frames holds, yet few enough that decoding a message of
tiny frames does not block the event loop noticeably."""

MAX_ERROR_BODY_BYTES: Final = 64 * KIB
"""How much of a server's error body is sent; error messages are shorter."""

MAX_TEXT_CHARS: Final = 4096
"""Human-readable messages and reasons: a few paragraphs."""

MAX_NAME_CHARS: Final = 512
"""Names and ids: the longest model ids seen are file paths of about 200 characters."""

MAX_MODELS: Final = 4096
"""Models in one `Capabilities`: the largest catalog of a passthrough has a few hundred."""

MAX_FEATURES: Final = 64
"""Names of optional features in one frame; version 1 has one feature."""

MAX_RESPONSE_HEADERS: Final = 16
"""Response headers in one `JobStarted`: more than `response_headers.CLIENT_HEADERS` has."""

MAX_MODEL_LOADS: Final = 256
"""Models in the load of one backend: of a backend with more, the agent leaves out idle ones."""

MAX_LIVE_JOBS: Final = 4096
"""Jobs that one agent may hold, including those whose end is not acknowledged."""

# --- times ----------------------------------------------------------------------------------------

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""From the open socket to `Welcome`: two round trips and one signature, on a slow link."""

HEARTBEAT_MS: Final = 10_000
"""The default interval of heartbeats. An agent that is silent for three of them, 30 s, is
disconnected."""

RESUME_MS: Final = 60_000
"""How long the coordinator keeps a detached session by default: about as long as a router takes to
reboot."""

MAX_DEADLINE_MS: Final = 24 * 3600 * 1000
"""The longest deadline of a job, one day: longer than any client waits."""
