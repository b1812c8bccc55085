from provider_agent.protocol.frames import JobHeader
from provider_agent.protocol.job import Job, join_request
from tests.kit.jobs import REQUEST

HEADER = JobHeader(
    job_id=b"\x0b" * 16,
    model_id="m",
    format="openai",
    request_bytes=len(REQUEST),
    deadline_ms=60_000,
    operation="chat",
    traceparent="00-1-2-01",
    add_usage=False,
    sign_receipt=True,
)
"""A header in which no optional field has its default value."""


def test_a_job_has_the_fields_of_its_header_and_the_request_in_place_of_its_size() -> None:
    # A field that is appended to the header, but not to the job, would be lost.
    fields = ["request_bytes" if name == "request" else name for name in Job.__struct_fields__]

    assert fields == list(JobHeader.__struct_fields__)
    assert Job.__struct_defaults__ == JobHeader.__struct_defaults__


def test_a_header_survives_the_conversion_to_a_job_and_back() -> None:
    for name, default in zip(
        reversed(JobHeader.__struct_fields__), reversed(JobHeader.__struct_defaults__), strict=False
    ):
        assert getattr(HEADER, name) != default, f"{name} needs another value in HEADER"

    assert join_request(HEADER, REQUEST).header == HEADER
