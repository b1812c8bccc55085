"""Golden vectors of protocol version 1: one frame each, and the message that holds only it.

They are written out, not computed: a change of the wire format is visible as a change of this file.
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
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    LiveJob,
    ModelLoad,
    ModelOffer,
    Notice,
    Receipt,
    Rejected,
    RequestChunk,
    ResponseHeader,
    ResumedJob,
    RoutingStatus,
    UnroutableModel,
    Usage,
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
        Challenge(NONCE, "example", ["receipts"]),
        """
        919401c4 20202122 23242526 2728292a 2b2c2d2e 2f303132 33343536 3738393a
        3b3c3d3e 3fa76578 616d706c 6591a872 65636569 707473
        """,
    ),
    Vector(
        "welcome",
        Welcome("provider-7", SESSION_ID, 10_000, 0, 1_048_576, 4_194_304),
        """
        919902aa 70726f76 69646572 2d37c410 5e551001 00004000 80000000 000000aa
        cd271000 ce001000 00ce0040 00009090
        """,
    ),
    Vector(
        "welcome-resuming",
        Welcome(
            "provider-7",
            SESSION_ID,
            10_000,
            60_000,
            65_536,
            1_048_576,
            [ResumedJob(JOB_ID, 300)],
            ["receipts"],
        ),
        """
        919902aa 70726f76 69646572 2d37c410 5e551001 00004000 80000000 000000aa
        cd2710cd ea60ce00 010000ce 00100000 9193c410 0b0b0b0b 00004000 80000000
        00000001 cd012cc2 91a87265 63656970 7473
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
        "job-header",
        JobHeader(JOB_ID, "qwen3-8b", "openai", 20, 60_000),
        """
        919a04c4 100b0b0b 0b000040 00800000 00000000 01a87177 656e332d 3862a66f
        70656e61 6914cdea 60a0a0c3 c2
        """,
    ),
    Vector(
        "job-header-with-operation",
        JobHeader(
            JOB_ID,
            "qwen3-8b",
            "openai",
            13,
            60_000,
            "embeddings",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            add_usage=False,
            sign_receipt=True,
        ),
        """
        919a04c4 100b0b0b 0b000040 00800000 00000000 01a87177 656e332d 3862a66f
        70656e61 690dcdea 60aa656d 62656464 696e6773 d9373030 2d306166 37363531
        39313663 64343364 64383434 38656232 31316338 30333139 632d6237 61643662
        37313639 32303333 33312d30 31c2c3
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
    Vector(
        "request-chunk",
        RequestChunk(JOB_ID, 0, b'{"model":"qwen3-8b"}'),
        """
        919408c4 100b0b0b 0b000040 00800000 00000000 0100c414 7b226d6f 64656c22
        3a227177 656e332d 3862227d
        """,
    ),
    Vector(
        "notice",
        Notice("quota_exceeded", "warning", "The daily quota is used up.", "qwen3-8b"),
        """
        919509ae 71756f74 615f6578 63656564 6564a777 61726e69 6e67bb54 68652064
        61696c79 2071756f 74612069 73207573 65642075 702ea871 77656e33 2d3862
        """,
    ),
    Vector(
        "routing-status",
        RoutingStatus(2, [UnroutableModel("qwen3-8b", "price", "Above the limit.")]),
        """
        91930a02 9193a871 77656e33 2d3862a5 70726963 65b04162 6f766520 74686520
        6c696d69 742e
        """,
    ),
)

FROM_AGENT: Final = (
    Vector(
        "hello",
        Hello("0.1.0", PUBLIC_KEY, SIGNATURE),
        """
        919a21a5 302e312e 30c42003 a107bff3 ce10be1d 70dd18e7 4bc09967 e4d6309b
        a50d5f1d dc866412 5531b8c4 40f347d2 dab09116 b30674ed eb833370 0d4e3cf4
        b8834145 d108f0ee b7439a0b 2afebd72 a8072a79 667f5d55 1e640b2d a026de89
        cef2c732 2a4b6d7f ad9397d0 02a0a0c0 9090c2
        """,
    ),
    Vector(
        "hello-resuming",
        Hello(
            "0.1.0",
            PUBLIC_KEY,
            SIGNATURE,
            "code-1",
            "i-1",
            SESSION_ID,
            [LiveJob(JOB_ID, 256, 512, 20, True)],
            ["receipts"],
            True,
        ),
        """
        919a21a5 302e312e 30c42003 a107bff3 ce10be1d 70dd18e7 4bc09967 e4d6309b
        a50d5f1d dc866412 5531b8c4 40f347d2 dab09116 b30674ed eb833370 0d4e3cf4
        b8834145 d108f0ee b7439a0b 2afebd72 a8072a79 667f5d55 1e640b2d a026de89
        cef2c732 2a4b6d7f ad9397d0 02a6636f 64652d31 a3692d31 c4105e55 10010000
        40008000 00000000 00aa9195 c4100b0b 0b0b0000 40008000 00000000 0001cd01
        00cd0200 14c391a8 72656365 69707473 c3
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
                    8_192,
                    ["text", "image"],
                    True,
                    None,
                    False,
                )
            ],
            AgentLimits(8, 100_000),
            {"display_name": "Käthe"},
        ),
        """
        91952202 919ea871 77656e33 2d386292 a66f7065 6e6169a9 616e7468 726f7069
        6392a463 686174a8 6d657373 61676573 cd8000c3 a4766c6c 6d08cd4e 20ce0001
        3880cd20 0092a474 657874a5 696d6167 65c3c0c2 9208ce00 0186a081 ac646973
        706c6179 5f6e616d 65a64bc3 a4746865
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
            [
                BackendLoad(
                    "vllm:http://127.0.0.1:8000",
                    True,
                    2,
                    8,
                    3,
                    None,
                    0.25,
                    [ModelLoad("qwen3-8b", "loaded", 2, 3, None, 0.25, 5000.0, 41.5)],
                )
            ],
        ),
        """
        91992302 0108cb40 44c00000 000000cb 40668000 00000000 c0cb0000 00000000
        00009198 ba766c6c 6d3a6874 74703a2f 2f313237 2e302e30 2e313a38 303030c3
        020803c0 cb3fd000 00000000 009198a8 7177656e 332d3862 a66c6f61 64656402
        03c0cb3f d0000000 000000cb 40b38800 00000000 cb4044c0 00000000 00
        """,
    ),
    Vector(
        "job-started",
        JobStarted(
            JOB_ID,
            200,
            "text/event-stream",
            "vllm:http://127.0.0.1:8000",
            [ResponseHeader("x-request-id", "r-1")],
        ),
        """
        919624c4 100b0b0b 0b000040 00800000 00000000 01ccc8b1 74657874 2f657665
        6e742d73 74726561 6dba766c 6c6d3a68 7474703a 2f2f3132 372e302e 302e313a
        38303030 9192ac78 2d726571 75657374 2d6964a3 722d31
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
        JobResult(
            JOB_ID,
            270,
            Usage(12, None, 8, 0, None),
            "vllm:http://127.0.0.1:8000",
            1_500,
            180,
            20_000,
            80_000,
            Receipt(NONCE, SIGNATURE),
        ),
        """
        919a26c4 100b0b0b 0b000040 00800000 00000000 01cd010e 950cc008 00c0ba76
        6c6c6d3a 68747470 3a2f2f31 32372e30 2e302e31 3a383030 30cd05dc ccb4cd4e
        20ce0001 388092c4 20202122 23242526 2728292a 2b2c2d2e 2f303132 33343536
        3738393a 3b3c3d3e 3fc440f3 47d2dab0 9116b306 74edeb83 33700d4e 3cf4b883
        4145d108 f0eeb743 9a0b2afe bd72a807 2a79667f 5d551e64 0b2da026 de89cef2
        c7322a4b 6d7fad93 97d002
        """,
    ),
    Vector(
        "job-error",
        JobError(JOB_ID, 0, "bad_request", "The request is not a JSON object."),
        """
        91dc0012 27c4100b 0b0b0b00 00400080 00000000 00000100 ab626164 5f726571
        75657374 d9215468 65207265 71756573 74206973 206e6f74 2061204a 534f4e20
        6f626a65 63742ec0 c2c0c400 c2c395c0 c0c0c0c0 a000c0c0 c0c0
        """,
    ),
    Vector(
        "job-error-from-upstream",
        JobError(
            JOB_ID,
            0,
            "backend_overloaded",
            "Rate limit.",
            429,
            True,
            2_000,
            b'{"error":{}}',
            False,
            True,
            Usage(12, 3),
            "openrouter",
            900,
            None,
        ),
        """
        91dc0012 27c4100b 0b0b0b00 00400080 00000000 00000100 b2626163 6b656e64
        5f6f7665 726c6f61 646564ab 52617465 206c696d 69742ecd 01adc3cd 07d0c40c
        7b226572 726f7222 3a7b7d7d c2c3950c 03c0c0c0 aa6f7065 6e726f75 746572cd
        0384c0c0 c0c0
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
