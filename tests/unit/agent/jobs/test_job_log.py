from provider_agent.adapters.errors import BadStatus, ErrorInStream
from provider_agent.agent.jobs.ends import backend_error_end, error_end
from provider_agent.agent.jobs.job_log import end_fields
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError, JobResult
from tests.kit.jobs import new_job

PROMPT = "my secret diary"
JOB = new_job(request=PROMPT.encode())


def fields(end: JobEnd) -> dict[str, object]:
    found = end_fields(JOB, "vllm", end, 1.5)
    assert isinstance(found, dict)
    return found


def test_an_end_is_told_in_ids_and_numbers() -> None:
    told = fields(JobResult(JOB.job_id, 9, 3, 4, 10, 5))
    assert told["job"] == JOB.job_id.hex()
    assert (told["bytes"], told["duration_ms"], told["output_tokens"]) == (9, 1500, 4)


def test_what_the_agent_itself_says_is_told() -> None:
    end = error_end(JOB.job_id, 0, ErrorCode.DEADLINE_EXCEEDED, "the deadline passed")
    assert fields(end)["message"] == "the deadline passed"


def test_what_a_server_says_of_a_request_stays_out_of_the_log() -> None:
    """It may quote the prompt, with a status or inside an answer that began as a success."""
    body = b'{"error":{"message":"cannot read: my secret diary"}}'
    said = f"cannot read: {PROMPT}"
    errors = [
        BadStatus(400, body, ErrorCode.BAD_REQUEST, None, said),
        ErrorInStream(body, ErrorCode.BAD_REQUEST, said),
    ]
    for error in errors:
        end = backend_error_end(JOB, 0, error)
        assert isinstance(end, JobError)
        assert PROMPT in end.message, "the client is told"
        assert PROMPT not in str(fields(end))
        assert fields(end)["code"] == "bad_request"
