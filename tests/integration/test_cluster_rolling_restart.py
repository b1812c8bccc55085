"""A rolling restart of three coordinators, which are processes behind a load balancer."""

import random
from pathlib import Path

import pytest

from tests.soak.clients import ClientBehavior, Load
from tests.soak.cluster.fleet import running_fleet
from tests.soak.cluster.run import rolling_restart
from tests.soak.counts import Counts

LOAD = Load(
    clients=16,
    attempts=3,
    runs_per_job=1,
    keep_alive=False,
    behaviors=((ClientBehavior.READS, 3), (ClientBehavior.PAUSES, 1)),
    # A stop waits for 10 s by default, of which the load balancer needs two to notice it.
    shapes=((40, 60, 100), (20, 4000, 50), (20, 40, 20)),
)


@pytest.mark.timeout(180)
async def test_no_request_fails_while_every_coordinator_restarts(tmp_path: Path) -> None:
    counts = Counts()
    async with running_fleet(random.Random(5), counts, tmp_path, agents=2) as fleet:
        await rolling_restart(fleet, LOAD)
        await fleet.wait_until_idle()
        fleet.check_processes()
        assert counts.defects == []
        assert fleet.server.late_runs == 0
