import pytest

from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.timeline import JobTimeline
from provider_agent.agent.telemetry.traces.job_spans import MAX_MODEL_CHARS, JobSpan, job_spans
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError, JobHeader, JobResult, Usage
from tests.kit.fake_clock import FakeClock

ID = b"j" * 16
VLLM = "vllm:http://gpu:8001"
NO_USAGE = Usage()


def result(total_bytes: int = 0, usage: Usage = NO_USAGE) -> JobResult:
    return JobResult(ID, total_bytes, usage, VLLM, 0, None)


class Story:
    """A job whose times a test records, one second after another."""

    def __init__(
        self, model_id: str = "m", wire_format: str = "openai", operation: str = ""
    ) -> None:
        self._clock = FakeClock(50.0)
        header = JobHeader(ID, model_id, wire_format, 1, 60_000, operation=operation)
        self.timeline = JobTimeline(header, self._clock)

    def second(self) -> JobTimeline:
        self._clock.now += 1
        return self.timeline

    def spans(self, end: JobEnd, *, refusal: RefusalReason | None = None) -> list[JobSpan]:
        self.second().ended()
        header, attempts = self.timeline.header, len(self.timeline.attempts)
        record = JobRecord(
            header.format,
            "vllm",
            end,
            None,
            attempts,
            "" if refusal else header.model_id,
            streamed=isinstance(end, JobResult),
            refusal=refusal,
            timeline=self.timeline,
        )
        return job_spans(record, self.timeline)

    def seconds(self, ns: int | None) -> float:
        assert ns is not None
        return (ns - self.timeline.arrived_ns) / 1e9


def test_job_has_spans_of_its_queue_and_of_its_attempt() -> None:
    story = Story()
    story.timeline.attempt_started(VLLM, "vllm")
    story.second().request_arrived()
    story.second().response_started()
    usage = Usage(10, 20, cached_tokens=3, reasoning_tokens=0)
    job, queue, attempt = story.spans(result(99, usage))

    assert [
        (one.name, story.seconds(one.start_ns), story.seconds(one.end_ns))
        for one in (job, queue, attempt)
    ] == [("job", 0, 3), ("queue", 0, 1), ("chat m", 1, 3)]
    assert story.seconds(attempt.first_byte_ns) == 2
    assert [one.is_client for one in (job, queue, attempt)] == [False, False, True]
    assert job.attributes == {
        "provider_agent.job.id": ID.hex(),
        "provider_agent.job.outcome": "ok",
        "provider_agent.job.attempts": 1,
        "provider_agent.response.bytes": 99,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
    }
    assert attempt.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 1.0,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "provider_agent.backend.id": VLLM,
        "server.address": "gpu",
        "server.port": 8001,
    }
    assert not any(one.error for one in (job, queue, attempt))


def test_each_attempt_has_its_own_error_and_the_last_one_the_status_of_the_server() -> None:
    story = Story()
    story.timeline.attempt_started(VLLM, "vllm")
    story.second().request_arrived()
    story.second().attempt_failed("backend_unreachable")
    story.timeline.attempt_failed("backend_error")  # only the first failure counts
    story.second().attempt_started("venice", "venice")
    end = JobError(ID, 0, ErrorCode.BACKEND_ERROR, "secret", upstream_status=503)
    job, _, first, second = story.spans(end)

    assert (first.error, story.seconds(first.end_ns)) == ("backend_unreachable", 2)
    assert "http.response.status_code" not in first.attributes
    assert (second.error, story.seconds(second.start_ns)) == ("backend_error", 3)
    assert second.attributes["http.response.status_code"] == 503
    assert "server.address" not in second.attributes
    assert (job.error, job.attributes["error.type"]) == ("backend_error", "backend_error")


@pytest.mark.parametrize("code", [ErrorCode.CANCELLED, ErrorCode.BAD_REQUEST])
def test_mistake_of_the_client_is_no_error_of_the_job(code: ErrorCode) -> None:
    story = Story()
    story.timeline.attempt_started(VLLM, "vllm")
    story.second().request_arrived()
    job, _, attempt = story.spans(JobError(ID, 0, code, "no"))

    assert (job.error, job.attributes["error.type"]) == ("", code)
    assert attempt.error == ("" if code is ErrorCode.CANCELLED else code)


def test_refused_job_has_its_reason_and_not_the_name_that_the_client_chose() -> None:
    story = Story("x" * 5000)
    end = JobError(ID, 0, ErrorCode.MODEL_NOT_LOADED, "no")
    (job,) = story.spans(end, refusal=RefusalReason.NOT_SERVED)

    assert job.attributes["provider_agent.job.refusal"] == RefusalReason.NOT_SERVED
    assert job.attributes["provider_agent.job.outcome"] == "refused"
    assert "gen_ai.request.model" not in job.attributes


def test_job_whose_request_never_arrived_has_no_attempt() -> None:
    story = Story()
    story.timeline.attempt_started(VLLM, "vllm")
    spans = story.spans(JobError(ID, 0, ErrorCode.CANCELLED, "gone"))
    assert [one.name for one in spans] == ["job"]


def test_hostile_model_name_is_one_short_printable_line() -> None:
    story = Story("a\nb\x1b[31m\ud800" + "x" * 5000)
    story.timeline.attempt_started(VLLM, "vllm")
    story.second().request_arrived()
    attempt = story.spans(result())[2]

    name = attempt.attributes["gen_ai.request.model"]
    assert isinstance(name, str)
    assert name.isprintable()
    assert len(name) == MAX_MODEL_CHARS
    assert attempt.name == f"chat {name}"


@pytest.mark.parametrize(
    ("wire_format", "operation", "name"),
    [
        ("openai", "responses", "chat"),
        ("openai", "completions", "text_completion"),
        ("openai", "embeddings", "embeddings"),
        ("anthropic", "", "chat"),
        ("anthropic", "count_tokens", "count_tokens"),
        ("openai", "no such", "unknown"),
    ],
)
def test_operations_have_their_conventional_names(
    wire_format: str, operation: str, name: str
) -> None:
    story = Story("m", wire_format, operation)
    job = story.spans(result())[0]
    assert job.attributes["gen_ai.operation.name"] == name


@pytest.mark.parametrize(
    ("backend_id", "address"),
    [
        ("vllm:https://gpu/v1", ("gpu", 443)),
        ("vllm:http://[::1]", ("::1", 80)),
        ("vllm:http://user:secret@gpu", ("gpu", 80)),
        ("vllm:http://gpu:99999999", (None, None)),
        ("vllm", (None, None)),
    ],
)
def test_server_address_is_host_and_port(
    backend_id: str, address: tuple[str | None, int | None]
) -> None:
    story = Story()
    story.timeline.attempt_started(backend_id, "vllm")
    story.second().request_arrived()
    found = story.spans(result())[2].attributes
    assert (found.get("server.address"), found.get("server.port")) == address
