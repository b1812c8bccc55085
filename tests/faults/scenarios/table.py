"""Every scenario: what is done, and what must hold. The one place where they are listed."""

from collections.abc import Sequence
from typing import Final

from tests.faults.scenarios import (
    backend_restarts,
    clocks,
    corruption,
    dialling,
    lost_links,
    repeated_frames,
    restarts,
    slow_clients,
    slow_links,
    stops,
)
from tests.faults.scenarios.scenario import Scenario

LINK: Final[Sequence[Scenario]] = (
    Scenario(
        "link cut again and again",
        "many streams at once; each new link is cut after a random number of bytes, in the "
        "handshake or in the middle of a frame",
        "every stream complete, byte for byte, once; each job ran once at the server",
        lost_links.link_cut_again_and_again,
    ),
    Scenario(
        "clients come while the link is cut",
        "the same, while clients come and go, with streams and with whole answers",
        "whoever is answered gets all of it, from one run; the others one clear error",
        lost_links.clients_come_while_the_link_is_cut,
    ),
    Scenario(
        "link stands still for a while",
        "one direction, or both, pass nothing for 1 to 15 s",
        "every stream complete; the link is not given up",
        lost_links.link_stands_still_for_a_while,
    ),
    Scenario(
        "link stands still for good",
        "one direction, or both, pass nothing any more; nobody is told",
        "noticed within a minute; every stream complete over a new link",
        lost_links.link_stands_still_for_good,
    ),
    Scenario(
        "link half open",
        "both sockets stay open, nothing passes: a router that lost its table",
        "noticed within a minute; every stream complete over a new link",
        lost_links.link_is_half_open,
    ),
    Scenario(
        "link half closed",
        "one side is told that the other has no more to say",
        "every stream complete over a new link",
        lost_links.link_is_half_closed,
    ),
    Scenario(
        "link away for too long",
        "down for longer than the coordinator keeps a session",
        "one clear error per stream; the server is freed; later jobs run",
        lost_links.link_is_away_for_too_long,
    ),
    Scenario(
        "link slow and far away",
        "100 kB/s, 0.3 s each way, one job that wants more than that",
        "every stream complete; small jobs keep their pace; the link is not given up",
        slow_links.link_is_slow_and_far_away,
    ),
    Scenario(
        "frame head corrupted, to the agent",
        "bits of a WebSocket frame's first byte flip",
        "the link ends at once, one clear error per stream; the agent comes back and serves",
        corruption.frame_head_corrupted_on_its_way_to_the_agent,
    ),
    Scenario(
        "frame head corrupted, to the coordinator",
        "bits of a WebSocket frame's first byte flip",
        "the link ends at once, one clear error per stream; told 1002, the agent stops with 78",
        corruption.frame_head_corrupted_on_its_way_to_the_coordinator,
    ),
    Scenario(
        "any byte corrupted",
        "a random bit of a random byte flips, in either direction",
        "nothing hangs; at most one stream is wrong, and by one byte: what is within a letter only "
        "TLS can tell",
        corruption.any_byte_corrupted,
    ),
)

COORDINATOR: Final[Sequence[Scenario]] = (
    Scenario(
        "coordinator killed, a new one knows nothing",
        "killed in the middle of many streams; another one takes its address",
        "new session; every orphan cancelled at the server; one error per client; new jobs run",
        restarts.coordinator_dies_and_another_knows_nothing,
    ),
    Scenario(
        "coordinator stopped and started again",
        "an orderly stop that waits for nobody",
        "one error per client; the server is freed; new jobs run at the new one",
        restarts.coordinator_stops_and_starts_again,
    ),
    Scenario(
        "coordinator drains",
        "it stops, and waits for running jobs",
        "every stream complete at the old one; new jobs run at the new one",
        restarts.coordinator_drains_while_jobs_run,
    ),
    Scenario(
        "coordinator says Drain",
        "a foreign coordinator sends Drain while a job runs",
        "the job is finished there; the agent leaves, and comes back when told",
        repeated_frames.drain_with_running_jobs,
    ),
    Scenario(
        "job delivered twice",
        "the same Job frame in one message, while it runs, and after its end",
        "it runs once, and has one end",
        repeated_frames.job_delivered_twice,
    ),
    Scenario(
        "first coordinator gone",
        "the agent knows two addresses; the first is gone for good",
        "jobs run at the second one",
        dialling.first_coordinator_gone,
    ),
    Scenario(
        "accepted and dropped",
        "a load balancer without a coordinator behind it",
        "the waits between dials grow to a minute, with jitter; then the agent serves again",
        dialling.accepted_and_dropped_again_and_again,
    ),
    Scenario(
        "welcomed and dropped",
        "a coordinator that dies of every agent",
        "the same: being welcomed is not being healthy",
        dialling.welcomed_and_dropped_again_and_again,
    ),
    Scenario(
        "token rotated",
        "the coordinator answers 401 until the token file changes",
        "the agent comes back with the new token, without a restart",
        dialling.token_rotated,
    ),
)

AGENT: Final[Sequence[Scenario]] = (
    Scenario(
        "agent stopped with jobs",
        "SIGTERM with jobs of different lengths, while new ones come",
        "all finish; the new ones run elsewhere; exit code 0",
        stops.agent_stops_with_jobs_of_different_lengths,
    ),
    Scenario(
        "agent stopped without a link",
        "SIGTERM while the link is down; it comes back 20 s later",
        "all finish and reach their clients; exit code 0",
        stops.agent_stops_while_the_link_is_down,
    ),
    Scenario(
        "agent stopped, jobs too long",
        "SIGTERM with jobs that outlast drain_timeout",
        "those in time finish, the others end with one clear error; exit code 0",
        stops.agent_stops_and_jobs_outlast_the_drain,
    ),
    Scenario(
        "agent stopped, end not acknowledged",
        "SIGTERM; the last end is not acknowledged, a new job is offered",
        "the offer is refused with draining; it leaves after the acknowledgement; exit code 0",
        stops.agent_stops_with_an_unacknowledged_end,
    ),
    Scenario(
        "agent replaced by a newer one",
        "another process with the same key starts while jobs run",
        "the older finishes what it has, is told, and stops; new jobs run at the newer",
        stops.agent_replaced_by_a_newer_process,
    ),
    Scenario(
        "machine asleep for a moment",
        "the clock jumps by 20 s, and the network has forgotten the link",
        "every stream complete",
        clocks.machine_asleep_for_a_moment,
    ),
    Scenario(
        "machine asleep for an hour",
        "the clock jumps by an hour, and the network has forgotten the link",
        "each stream complete or one clear error; the agent reconnects and serves",
        clocks.machine_asleep_for_an_hour,
    ),
    Scenario(
        "wall clock set back and forth",
        "by up to a year, at every look at it; the link is cut meanwhile",
        "every stream complete: no decision looks at it",
        clocks.wall_clock_set_back_and_forth,
    ),
)

ENDS: Final[Sequence[Scenario]] = (
    Scenario(
        "backend killed and restarted",
        "the inference server dies in the middle of many streams",
        "one clear error per stream; the link does not suffer; later jobs run",
        backend_restarts.backend_killed_and_restarted,
    ),
    Scenario(
        "one client of many stops reading",
        "one of 50 keeps its connection and takes nothing",
        "its job alone ends, with slow_consumer; all others complete; one window of memory",
        slow_clients.one_client_of_many_stops_reading,
    ),
)

TABLE: Final = (*LINK, *COORDINATOR, *AGENT, *ENDS)
