"""Golden vectors of protocol version 1: one frame each, and the message that holds only it.

They are written out, not computed: a change of the wire format is visible as a change of this file,
and other implementations can copy them. `docs/protocol.md` shows the same vectors.
"""

from dataclasses import dataclass
from typing import Final

from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    BackendLoad,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    Job,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    ModelOffer,
    Rejected,
    Welcome,
)

SEED: Final = bytes(range(32))
"""The 32-byte seed of an Ed25519 private key."""

AUTHORITY: Final = "coordinator.example:443"
NONCE: Final = bytes(range(0x20, 0x40))

PUBLIC_KEY: Final = bytes.fromhex(
    "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
)
SIGNATURE: Final = bytes.fromhex(
    "f347d2dab09116b30674edeb8333700d4e3cf4b8834145d108f0eeb7439a0b2a"
    "febd72a8072a79667f5d551e640b2da026de89cef2c7322a4b6d7fad9397d002"
)

SESSION_ID: Final = bytes.fromhex("5e5510010000400080000000000000aa")
JOB_ID: Final = bytes.fromhex("0b0b0b0b000040008000000000000001")


@dataclass(frozen=True)
class Vector:
    """A frame and its message in hex, with white space for readability."""

    name: str
    frame: AgentFrame | CoordinatorFrame
    hex: str

    @property
    def message(self) -> bytes:
        return bytes.fromhex(self.hex)


FROM_COORDINATOR: Final = (
    Vector(
        "challenge",
        Challenge(NONCE, "example"),
        """
        919301c4 20202122 23242526 2728292a 2b2c2d2e 2f303132 33343536 3738393a
        3b3c3d3e 3fa76578 616d706c 65
        """,
    ),
    Vector(
        "welcome",
        Welcome("provider-7", SESSION_ID, 10_000, 0, 1_048_576, 4_194_304),
        """
        919802aa 70726f76 69646572 2d37c410 5e551001 00004000 80000000 000000aa
        cd271000 ce001000 00ce0040 000080
        """,
    ),
    Vector(
        "welcome-resuming",
        Welcome("provider-7", SESSION_ID, 10_000, 60_000, 65_536, 1_048_576, {JOB_ID: 300}),
        """
        919802aa 70726f76 69646572 2d37c410 5e551001 00004000 80000000 000000aa
        cd2710cd ea60ce00 010000ce 00100000 81c4100b 0b0b0b00 00400080 00000000
        000001cd 012c
        """,
    ),
    Vector(
        "rejected",
        Rejected("not_enrolled", "This key is not enrolled."),
        """
        919403ac 6e6f745f 656e726f 6c6c6564 b9546869 73206b65 79206973 206e6f74
        20656e72 6f6c6c65 642ec0
        """,
    ),
    Vector(
        "rejected-for-now",
        Rejected("too_many_connections", "Full.", 5_000),
        """
        919403b4 746f6f5f 6d616e79 5f636f6e 6e656374 696f6e73 a546756c 6c2ecd13
        88
        """,
    ),
    Vector(
        "job",
        Job(JOB_ID, "qwen3-8b", "openai", b'{"model":"qwen3-8b"}', 60_000),
        """
        919804c4 100b0b0b 0b000040 00800000 00000000 01a87177 656e332d 3862a66f
        70656e61 69c4147b 226d6f64 656c223a 22717765 6e332d38 62227dcd ea60a0a0
        """,
    ),
    Vector(
        "job-with-operation",
        Job(
            JOB_ID,
            "qwen3-8b",
            "openai",
            b'{"input":"x"}',
            60_000,
            "embeddings",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        """
        919804c4 100b0b0b 0b000040 00800000 00000000 01a87177 656e332d 3862a66f
        70656e61 69c40d7b 22696e70 7574223a 2278227d cdea60aa 656d6265 6464696e
        6773d937 30302d30 61663736 35313931 36636434 33646438 34343865 62323131
        63383033 3139632d 62376164 36623731 36393230 33333331 2d3031
        """,
    ),
    Vector(
        "cancel",
        Cancel(JOB_ID, "client gone"),
        """
        919305c4 100b0b0b 0b000040 00800000 00000000 01ab636c 69656e74 20676f6e
        65
        """,
    ),
    Vector(
        "ack",
        Ack(JOB_ID, 262_144),
        """
        919406c4 100b0b0b 0b000040 00800000 00000000 01ce0004 0000c2
        """,
    ),
    Vector(
        "ack-final",
        Ack(JOB_ID, 300, final=True),
        """
        919406c4 100b0b0b 0b000040 00800000 00000000 01cd012c c3
        """,
    ),
    Vector(
        "drain",
        Drain("upgrade", 5_000),
        """
        919307a7 75706772 616465cd 1388
        """,
    ),
)

FROM_AGENT: Final = (
    Vector(
        "hello",
        Hello("0.1.0", PUBLIC_KEY, SIGNATURE),
        """
        919821a5 302e312e 30c42003 a107bff3 ce10be1d 70dd18e7 4bc09967 e4d6309b
        a50d5f1d dc866412 5531b8c4 40f347d2 dab09116 b30674ed eb833370 0d4e3cf4
        b8834145 d108f0ee b7439a0b 2afebd72 a8072a79 667f5d55 1e640b2d a026de89
        cef2c732 2a4b6d7f ad9397d0 02a0a0c0 90
        """,
    ),
    Vector(
        "hello-resuming",
        Hello(
            "0.1.0", PUBLIC_KEY, SIGNATURE, "code-1", "i-1", SESSION_ID, [LiveJob(JOB_ID, 256, 512)]
        ),
        """
        919821a5 302e312e 30c42003 a107bff3 ce10be1d 70dd18e7 4bc09967 e4d6309b
        a50d5f1d dc866412 5531b8c4 40f347d2 dab09116 b30674ed eb833370 0d4e3cf4
        b8834145 d108f0ee b7439a0b 2afebd72 a8072a79 667f5d55 1e640b2d a026de89
        cef2c732 2a4b6d7f ad9397d0 02a6636f 64652d31 a3692d31 c4105e55 10010000
        40008000 00000000 00aa9193 c4100b0b 0b0b0000 40008000 00000000 0001cd01
        00cd0200
        """,
    ),
    Vector(
        "capabilities-of-nothing",
        Capabilities(1, [], AgentLimits(4)),
        """
        91952201 909204c0 80
        """,
    ),
    Vector(
        "capabilities",
        Capabilities(
            2,
            [
                ModelOffer(
                    "qwen3-8b",
                    ["openai", "anthropic"],
                    ["chat", "messages"],
                    32_768,
                    True,
                    "vllm",
                    8,
                    20_000,
                    80_000,
                )
            ],
            AgentLimits(8, 100_000),
            {"display_name": "Käthe"},
        ),
        """
        91952202 9199a871 77656e33 2d386292 a66f7065 6e6169a9 616e7468 726f7069
        6392a463 686174a8 6d657373 61676573 cd8000c3 a4766c6c 6d08cd4e 20ce0001
        38809208 ce000186 a081ac64 6973706c 61795f6e 616d65a6 4bc3a474 6865
        """,
    ),
    Vector(
        "heartbeat",
        Heartbeat(
            2,
            1,
            8,
            41.5,
            180.0,
            None,
            0.0,
            [BackendLoad("vllm:http://127.0.0.1:8000", True, 2, 8, 3, None)],
        ),
        """
        91992302 0108cb40 44c00000 000000cb 40668000 00000000 c0cb0000 00000000
        00009196 ba766c6c 6d3a6874 74703a2f 2f313237 2e302e30 2e313a38 303030c3
        020803c0
        """,
    ),
    Vector(
        "job-started",
        JobStarted(JOB_ID, 200, "text/event-stream", "vllm:http://127.0.0.1:8000"),
        """
        919524c4 100b0b0b 0b000040 00800000 00000000 01ccc8b1 74657874 2f657665
        6e742d73 74726561 6dba766c 6c6d3a68 7474703a 2f2f3132 372e302e 302e313a
        38303030
        """,
    ),
    Vector(
        "chunk",
        Chunk(JOB_ID, 256, b"data: [DONE]\n\n"),
        """
        919425c4 100b0b0b 0b000040 00800000 00000000 01cd0100 c40e6461 74613a20
        5b444f4e 455d0a0a
        """,
    ),
    Vector(
        "job-result",
        JobResult(JOB_ID, 270, 12, None, 1_500, 180),
        """
        919726c4 100b0b0b 0b000040 00800000 00000000 01cd010e 0cc0cd05 dcccb4
        """,
    ),
    Vector(
        "job-error",
        JobError(JOB_ID, 0, "bad_request", "The request is not a JSON object."),
        """
        919927c4 100b0b0b 0b000040 00800000 00000000 0100ab62 61645f72 65717565
        7374d921 54686520 72657175 65737420 6973206e 6f742061 204a534f 4e206f62
        6a656374 2ec0c2c0 c400
        """,
    ),
    Vector(
        "job-error-from-upstream",
        JobError(JOB_ID, 0, "backend_overloaded", "Rate limit.", 429, True, 2_000, b'{"error":{}}'),
        """
        919927c4 100b0b0b 0b000040 00800000 00000000 0100b262 61636b65 6e645f6f
        7665726c 6f616465 64ab5261 7465206c 696d6974 2ecd01ad c3cd07d0 c40c7b22
        6572726f 72223a7b 7d7d
        """,
    ),
    Vector(
        "draining",
        Draining(300_000),
        """
        919228ce 000493e0
        """,
    ),
)
