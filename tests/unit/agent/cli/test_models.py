import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner

from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.openrouter import MODEL as REMOTE_MODEL
from tests.kit.fakes.openrouter import FakeOpenRouter
from tests.kit.fakes.server import FakeResponse, RecordedRequest, json_response
from tests.unit.agent.cli.calls import ECHO, NO_KEY, invoke


@pytest.fixture
async def server_url() -> AsyncIterator[str]:
    async with FakeOpenAICompatible() as server:
        yield server.url


def test_models_lists_offers_and_skipped_backends(runner: CliRunner) -> None:
    result = invoke(runner, "models", config=ECHO + NO_KEY)

    assert result.exit_code == 0
    assert "│ echo  │ echo    │ text    │ unknown │" in result.output
    # The operations were a column, which a terminal of eighty columns cut off.
    assert "\necho: chat, count_tokens, messages\n" in result.output
    assert "echo: 64 concurrent jobs\n" in result.output
    assert "venice: skipped: the environment variable KEY_THAT_IS_NOT_SET" in result.output


def test_price_below_a_cent_does_not_look_like_a_free_model(runner: CliRunner) -> None:
    prices = "[pricing.models]\necho = { input_per_1m = 3, output_per_1m = 2_500_000 }\n"
    result = invoke(runner, "models", config=ECHO + prices)

    assert "│ 0.000003 │ 2.50" in result.output


def test_models_json_lists_models_and_problems_of_backends(runner: CliRunner) -> None:
    shown = json.loads(invoke(runner, "models", "--json", config=ECHO + NO_KEY).output)

    assert [model["model_id"] for model in shown["models"]] == ["echo"]
    echo, venice = shown["backends"]
    assert (echo["id"], echo["problem"]) == ("echo", "")
    assert echo["models"][0]["operations"] == ["chat", "count_tokens", "messages"]
    assert "KEY_THAT_IS_NOT_SET" in venice["problem"]


async def test_withheld_model_is_printed_with_its_reason(
    runner: CliRunner, server_url: str
) -> None:
    config = f'[[backends]]\nkind = "openai_compatible"\nurl = "{server_url}"\nmodels = ["x"]\n'

    result = await asyncio.to_thread(invoke, runner, "models", config=config)

    assert result.exit_code == 1
    assert f"not offered: {MODEL}: not in the backend's `models` list" in result.output


class FakeServerWithModels(FakeOpenAICompatible):
    """Lists `count` models."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def respond(self, request: RecordedRequest) -> FakeResponse:
        if (request.method, request.path) == ("GET", "/v1/models"):
            data = [{"id": f"m-{number}", "context_length": 4096} for number in range(self.count)]
            return json_response({"object": "list", "data": data})
        return super().respond(request)


@pytest.mark.parametrize(
    ("count", "expected", "unexpected"),
    [
        (0, "healthy, but offers no model\n", "not offered"),
        (50, "see the reasons below\n", "and others"),
        (51, "  and others; --json shows up to 100\n", "not offered: m-9:"),
    ],
)
async def test_withheld_models_are_printed_up_to_a_limit(
    runner: CliRunner, count: int, expected: str, unexpected: str
) -> None:
    async with FakeServerWithModels(count) as server:
        config = f'[[backends]]\nkind = "openai_compatible"\nurl = "{server.url}"\nmodels = ["x"]\n'
        result = await asyncio.to_thread(invoke, runner, "models", config=config)
    assert expected in result.output
    assert unexpected not in result.output


def test_models_without_a_backend_prints_advice(runner: CliRunner) -> None:
    result = invoke(runner, "models")

    assert result.exit_code == 1
    assert "No model to offer.\n" in result.output
    assert "add a [[backends]] table for each of your servers" in result.output


async def test_withheld_models_are_printed_with_the_settings_that_would_offer_them(
    runner: CliRunner, server_url: str
) -> None:
    async with FakeOpenRouter(api_key="sk-or-1") as remote:
        config = (
            f'[[backends]]\nkind = "openai_compatible"\nurl = "{server_url}"\n'
            f'alias = {{ "{REMOTE_MODEL}" = "{MODEL}" }}\n'
            f'[[backends]]\nkind = "openrouter"\nurl = "{remote.url}"\n'
            f'api_key_env = "KEY"\nmodels = ["{REMOTE_MODEL}", "acme/auto"]\n'
        )
        result = await asyncio.to_thread(
            lambda: invoke(runner, "models", "--json", config=config, KEY="sk-or-1")
        )
        asked = await asyncio.to_thread(
            lambda: invoke(runner, "ask", "acme/auto", "hi", config=config, KEY="sk-or-1")
        )
    assert (
        "not offered by openrouter: its price is unknown; set its price in [pricing.models]"
        in asked.stderr.splitlines()
    )
    shown = json.loads(result.output)
    assert all(one["native"] for one in shown["models"])
    withheld = {one["model_id"]: one["withheld"] for one in shown["backends"][1]["models"]}
    assert "offers the same id, on your own hardware" in withheld[REMOTE_MODEL]
    assert "set `overflow = true`" in withheld[REMOTE_MODEL]
    assert withheld["acme/auto"] == ("its price is unknown; set its price in [pricing.models]")


async def test_every_backend_of_an_offer_is_named(runner: CliRunner, server_url: str) -> None:
    async with FakeOpenRouter(api_key="sk-or-1") as remote:
        config = (
            f'[[backends]]\nkind = "openai_compatible"\nurl = "{server_url}"\n'
            f'alias = {{ "{REMOTE_MODEL}" = "{MODEL}" }}\n'
            f'[[backends]]\nkind = "openrouter"\nurl = "{remote.url}"\n'
            f'api_key_env = "KEY"\nmodels = ["{REMOTE_MODEL}"]\noverflow = true\n'
        )
        result = await asyncio.to_thread(
            lambda: invoke(runner, "models", config=config, KEY="sk-or-1", COLUMNS="200")
        )
    assert " openai_compatible, openrouter (remote) " in result.output
