"""Every number of the protocol, with its unit in its name and its reason beside it."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

SUBPROTOCOL: Final = "provider-agent.v1"
"""Offered and required in the WebSocket upgrade, so that a stranger's server is noticed at once."""

CONNECT_PATH: Final = "/provider/connect"
"""Where the reference coordinator listens for agents."""

REPLACED: Final = 4001
"""Close code: another connection of the same key took this one's place. One of RFC 6455's private
codes, because an agent that dialled again would only push the other one out."""

MAX_INTEGER: Final = 2**53
"""The largest integer in a frame: exact in every language, including JavaScript's doubles."""

# --- sizes ----------------------------------------------------------------------------------------

MAX_REQUEST_BYTES: Final = 16 * MIB
"""The biggest request body of a job: images travel in it as base64."""

MAX_MESSAGE_TO_AGENT_BYTES: Final = MAX_REQUEST_BYTES + 64 * KIB
"""The biggest message an agent accepts: one job of the biggest size and its other fields."""

MIN_MESSAGE_TO_COORDINATOR_BYTES: Final = MIB
"""A coordinator must accept at least this: the biggest `Capabilities` has to fit in one message."""

MAX_MESSAGE_TO_COORDINATOR_BYTES: Final = 4 * MIB
"""What the reference coordinator accepts; it says so in `Welcome.max_message_bytes`."""

BATCH_BYTES: Final = 128 * KIB
"""Where a writer stops filling one message: big enough to share the cost of a send among many
chunks, small enough that a control frame never waits long behind it."""

CHUNK_BYTES: Final = 64 * KIB
"""The most one job puts into one `Chunk`: its turn, before the next job has its own."""

WINDOW_BYTES: Final = MIB
"""Unacknowledged bytes per job by default: some seconds of the fastest text stream, yet a thousand
stopped consumers cost the agent no more than a gigabyte."""

MIN_WINDOW_BYTES: Final = 16 * KIB
"""A smaller window could not hold the biggest frame of common servers and would crawl."""

MAX_FRAMES_PER_MESSAGE: Final = 16_384
"""More than a batch of the smallest job frames holds, and few enough that no message of tiny frames
costs its reader a noticeable pause."""

MAX_ERROR_BODY_BYTES: Final = 64 * KIB
"""How much of an upstream error is carried along: enough for any honest message."""

MAX_TEXT_CHARS: Final = 4096
"""Messages and reasons: for people to read."""

MAX_NAME_CHARS: Final = 512
"""Names and ids: the longest model ids seen are file paths of about 200 characters."""

MAX_MODELS: Final = 4096
"""Models in one `Capabilities`: the biggest catalogue of a passthrough has a few hundred."""

MAX_LIVE_JOBS: Final = 4096
"""Jobs that one agent may hold, the unacknowledged ends included."""

# --- times ----------------------------------------------------------------------------------------

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""From the open socket to `Welcome`: two round trips and one signature, on the worst link."""

HEARTBEAT_MS: Final = 10_000
"""How often an agent reports by default: three fit into the 30 s of silence allowed."""

RESUME_MS: Final = 60_000
"""How long a coordinator keeps its side of lost streams: a router's reboot is about that long."""

MAX_DEADLINE_MS: Final = 24 * 3600 * 1000
"""The longest deadline of a job: nobody waits a day, and the number stays far from overflow."""
