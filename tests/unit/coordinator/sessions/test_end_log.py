import logging

import pytest

from tests.kit.coordinator_harness import coordinator_harness
from tests.kit.virtual_time import in_virtual_time


@in_virtual_time
async def test_end_of_a_job_whose_client_disconnected_is_logged_with_its_usage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with coordinator_harness() as harness:
        with caplog.at_level(logging.INFO):
            job, response = await harness.start_response(b"data: 1\n\n")
            response.close()
            await job.cancelled.wait()
            await job.finish()
            await harness.agent.settle()

    (fields,) = [vars(one)["fields"] for one in caplog.records if one.message == "job ended"]
    assert (fields["abandoned"], fields["code"]) == (True, "ok")
    assert (fields["input_tokens"], fields["output_tokens"]) == (3, 4)
