"""Real servers interpret a request as the agent does, whatever a client writes.

The vLLM tests run with `make test-vllm`.
"""

import msgspec
import pytest

from provider_agent.adapters.base import BadRequest
from tests.kit.adapters_under_test import REAL, AdapterUnderTest, parametrize_adapters
from tests.kit.sink import CollectingSink

MESSAGES = '"messages":[{"role":"user","content":"Say something."}]'

every_real_server = parametrize_adapters(REAL)


async def output_tokens(adapter: AdapterUnderTest, fields: str) -> int | None:
    """Return how many tokens the server generates for a request with these fields."""
    job = adapter.job()
    body = f'{{"model":"{job.model_id}",{fields},"stream":true}}'
    sink = CollectingSink()
    await adapter.backend.execute(
        msgspec.structs.replace(job, request=body.encode(), add_usage=True), sink
    )
    return sink.usage.output_tokens


@every_real_server
@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        (f'{MESSAGES},"max_tokens":3', 3),
        (f'{MESSAGES},"max_tokens":7,"max_tokens":3', 3),
        (f'{MESSAGES},"max_tokens":3,"Max_Tokens":7,"MAX_TOKENS":7', 3),
        (f'{MESSAGES},"max\\u005ftokens":3', 3),
        (f'{MESSAGES},"max_tokens":7,"max\\u005ftokens":3', 3),
        (f'"Messages":[],{MESSAGES},"MESSAGES":7,"max_tokens":3', 3),
        (f'"messages":[],{MESSAGES},"max_tokens":3', 3),
        (f'{MESSAGES},"max_tokens":3,"stream_options":{{"include_usage":false}}', 3),
        (f'{MESSAGES},"max_tokens":3,"stream_options":{{"Include_Usage":false}}', 3),
        (f'{MESSAGES},"max_tokens":3,"stream":false,"Stream":false', 3),
        (f'{MESSAGES},"max_tokens":3.0', 3),
    ],
)
async def test_odd_spellings_do_not_change_what_the_server_reads(
    adapter: AdapterUnderTest, fields: str, tokens: int
) -> None:
    assert await output_tokens(adapter, fields) == tokens


@every_real_server
@pytest.mark.parametrize(
    "fields",
    [
        *(f'{MESSAGES},"stream":{value}' for value in ("1", "1.0", '"yes"', '"true"')),
        f'{MESSAGES},"n":"8"',
        f'{MESSAGES},"n":16384',
        f'{MESSAGES},"max_tokens":"3"',
        f'{MESSAGES},"top_k":18446744073709551616',
        f'{MESSAGES},"n_probs":2000000000',
        f'{MESSAGES},"dry_multiplier":1,"dry_penalty_last_n":200000000',
        f'{MESSAGES},"grammar":"root ::= {"(" * 60_000}"',
        f'{MESSAGES},"structured_outputs":7',
        f'{MESSAGES},"messages":[{{"content":"no role"}}]',
    ],
)
async def test_server_never_sees_a_request_that_would_harm_it(
    adapter: AdapterUnderTest, fields: str
) -> None:
    job = adapter.job()
    body = f'{{"model":"{job.model_id}",{fields}}}'

    with pytest.raises(BadRequest):
        await adapter.backend.execute(
            msgspec.structs.replace(job, request=body.encode()), CollectingSink()
        )
