"""`run` logs the same messages as `check` about what only a connection shows."""

import re
from pathlib import Path

import pytest

from tests.kit.cli_process import start_command
from tests.kit.mistakes import IN_THE_WORLD, Mistake
from tests.kit.wrong_servers import WRONG_SERVERS, closed_port, wrong_server

LOGGED = (
    "dead HTTPS_PROXY",
    "no token",
    "no coordinator on the port",
    "wss:// to a coordinator without TLS",
    "another web server",
    "missing token file",
    "https:// at a server that waits for a line",
    "key needed, none set",
    "dead HTTPS_PROXY, service",
)


@pytest.mark.parametrize(
    "mistake", [one for one in IN_THE_WORLD if one.what in LOGGED], ids=lambda one: one.what
)
async def test_run_logs_message_and_remedy(mistake: Mistake, tmp_path: Path) -> None:
    assert isinstance(mistake.config, str)
    (name,) = re.findall(r"<(\w+)>", mistake.config) or ["closed"]
    with wrong_server(name if name in WRONG_SERVERS else "other") as port:
        ports = {**dict.fromkeys(WRONG_SERVERS, port), "closed": closed_port()}
        config = re.sub(r"<(\w+)>", lambda found: str(ports[found[1]]), mistake.config)
        config += '\n[observability]\nprometheus_addr = "off"\n'
        (tmp_path / "agent.toml").write_text(config, "utf-8")
        async with start_command("run", home=tmp_path, env=mistake.env) as agent:
            line = await agent.wait_for_log(mistake.message)

    assert mistake.remedy in line
    if "not connected" in line:
        assert "what_to_do=" in line
    assert "SECRET" not in agent.err


async def test_two_agents_share_the_default_ports(tmp_path: Path) -> None:
    """The second agent uses the next port; `status` finds each agent by its key."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "agent.toml").write_text(
            f'[coordinator]\nurl = "ws://127.0.0.1:{closed_port()}/"\n'
            '[identity]\nkey_path = "identity.key"\n[[backends]]\nkind = "echo"\n',
            "utf-8",
        )
    async with (
        start_command("run", home=tmp_path / "one") as one,
        start_command("run", home=tmp_path / "two") as two,
    ):
        addresses = []
        for agent in (one, two):
            line = await agent.wait_for_log("status server listening")
            addresses.append(re.findall(r"address=(127\.0\.0\.1:84\d\d)", line))
        assert addresses[0] != addresses[1]
        async with start_command("health", home=tmp_path / "two") as health:
            assert (await health.wait()).code == 0
