"""The table of all scenarios: the fault, and what must hold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from provider_agent.protocol.limits import SUBPROTOCOL
from tests.faults.scenarios import (
    agent_stops,
    backend_restarts,
    clocks,
    connecting,
    coordinator_restarts,
    corruption,
    lost_links,
    repeated_frames,
    slow_clients,
    slow_links,
)
from tests.faults.scenarios.scenario import Scenario

LINK: Final[Sequence[Scenario]] = (
    Scenario(
        "link cut repeatedly",
        "many streams; each new link is cut after a random number of bytes, during the handshake "
        "or within a frame",
        "every stream is complete, byte for byte; each job ran once at the server",
        lost_links.link_cut_repeatedly,
    ),
    Scenario(
        "clients arrive while the link is cut",
        "each new link is cut after a random number of bytes, while clients send new requests for "
        "streamed and whole responses",
        "each response is complete and from one run, or one clear error",
        lost_links.clients_arrive_while_the_link_is_cut,
    ),
    Scenario(
        "link stalls briefly",
        "one direction, or both, forward nothing for 1 to 15 s",
        "every stream is complete; the link survives",
        lost_links.link_stalls_briefly,
    ),
    Scenario(
        "link stalls permanently",
        "one direction, or both, forward nothing more, without an error",
        "noticed within a minute; every stream is complete over a new link",
        lost_links.link_stalls_permanently,
    ),
    Scenario(
        "link half open",
        "both sockets stay open, every packet is dropped: a router lost its connection table",
        "noticed within a minute; every stream is complete over a new link",
        lost_links.link_half_open,
    ),
    Scenario(
        "link half closed",
        "one side receives a FIN",
        "every stream is complete over a new link",
        lost_links.link_half_closed,
    ),
    Scenario(
        "link down for too long",
        "the link is down for longer than the coordinator keeps a session",
        "one clear error per stream; the server's runs are cancelled; later jobs run",
        lost_links.link_down_for_too_long,
    ),
    Scenario(
        "link slow and distant",
        "100 kB/s, 0.3 s each way, one job that produces more than that",
        "every stream is complete; small jobs keep their pace; the link survives",
        slow_links.slow_distant_link,
    ),
    Scenario(
        "large request on a slow link",
        "250 kB/s, and a request of 16 MiB",
        "the request arrives; a small job beside it keeps its pace; the link survives",
        slow_links.large_request_on_a_slow_link,
    ),
    Scenario(
        "large request on a broken link",
        "250 kB/s, and the link breaks several times while a request of 16 MiB travels",
        "the request continues on each new link; its job runs once, and is complete",
        slow_links.large_request_on_a_broken_link,
    ),
    Scenario(
        "frame head corrupted, to the agent",
        "bits of a WebSocket frame's first byte flip",
        "the link closes at once; one clear error per stream; the agent reconnects and serves",
        corruption.frame_head_corrupted_on_its_way_to_the_agent,
    ),
    Scenario(
        "frame head corrupted, to the coordinator",
        "bits of a WebSocket frame's first byte flip",
        "the link closes with 1002; one clear error per stream; the agent reconnects and serves",
        corruption.frame_head_corrupted_on_its_way_to_the_coordinator,
    ),
    Scenario(
        "any byte corrupted",
        "a random bit of a random byte to or from the agent flips",
        "nothing hangs; at most one stream is wrong, by one byte, which only TLS can detect",
        corruption.any_byte_corrupted,
    ),
)

COORDINATOR: Final[Sequence[Scenario]] = (
    Scenario(
        "coordinator crashes",
        "the coordinator crashes during many streams; another one, without its sessions, takes its "
        "address",
        "a new session; every orphaned job is cancelled at the server; one error per client; new "
        "jobs run",
        coordinator_restarts.coordinator_replaced_without_its_sessions,
    ),
    Scenario(
        "coordinator stops and starts again",
        "an orderly stop that does not wait for running jobs",
        "one error per client; the server's runs are cancelled; new jobs run at the new one",
        coordinator_restarts.coordinator_stops_and_starts_again,
    ),
    Scenario(
        "coordinator drains",
        "the coordinator stops, and waits for running jobs",
        "every stream is complete at the old one; new jobs run at the new one",
        coordinator_restarts.coordinator_drains_while_jobs_run,
    ),
    Scenario(
        "coordinator sends Drain",
        "a scripted coordinator sends Drain while a job runs",
        "the job finishes on that link; the agent disconnects, and reconnects after the delay",
        repeated_frames.drain_with_running_jobs,
    ),
    Scenario(
        "job delivered repeatedly",
        "the same JobHeader twice in one message, while the job runs, and after its end",
        "the job runs once, and has one end",
        repeated_frames.job_delivered_repeatedly,
    ),
    Scenario(
        "first URL unreachable",
        "the agent has two URLs; the first refuses connections",
        "jobs run over the fallback URL",
        connecting.first_url_unreachable,
    ),
    Scenario(
        "connection accepted and reset",
        "a load balancer without a coordinator behind it",
        "the waits between attempts grow to a minute, with jitter; then the agent serves again",
        connecting.connection_accepted_and_reset_repeatedly,
    ),
    Scenario(
        "link cut after each welcome",
        "the link breaks right after each Welcome",
        "the waits grow to a minute: a Welcome does not reset the backoff; then the agent serves "
        "again",
        connecting.link_cut_after_each_welcome,
    ),
    Scenario(
        "token rotated",
        "the coordinator answers 401 until the token file changes",
        "the agent connects with the new token, without a restart",
        connecting.token_rotated,
    ),
)

AGENT: Final[Sequence[Scenario]] = (
    Scenario(
        "agent stopped with running jobs",
        "SIGTERM with jobs of different lengths, while new ones arrive",
        "all finish; the new ones run on another agent; exit code 0",
        agent_stops.agent_stops_with_running_jobs,
    ),
    Scenario(
        "agent stopped while the link is down",
        "SIGTERM while the link is down; the link is restored 20 s later",
        "all jobs finish and reach their clients; exit code 0",
        agent_stops.agent_stops_while_the_link_is_down,
    ),
    Scenario(
        "agent stopped on a slow link",
        "SIGTERM while 8 responses of 700 kB wait for a link of 100 kB/s",
        "all reach their clients; exit code 0",
        agent_stops.agent_stops_on_a_slow_link,
    ),
    Scenario(
        "agent stopped on a stalled link",
        "the link stalls while 8 responses of 700 kB are sent; SIGTERM",
        "all reach their clients over the next link; exit code 0",
        agent_stops.agent_stops_on_a_stalled_link,
    ),
    Scenario(
        "agent stopped, jobs too long",
        "SIGTERM with jobs that outlast drain_timeout",
        "jobs that end in time finish, the others end with one clear error; exit code 75",
        agent_stops.jobs_outlast_the_drain_timeout,
    ),
    Scenario(
        "agent stopped, end not acknowledged",
        "SIGTERM; the last end is not acknowledged, and a new job arrives",
        "the new job is refused with draining; exit code 0 after the acknowledgement",
        agent_stops.agent_waits_for_acknowledgement_before_exit,
    ),
    Scenario(
        "agent replaced by a newer process",
        "another process with the same key starts while jobs run",
        "the older one finishes its jobs and exits; new jobs run at the newer one",
        agent_stops.agent_replaced_by_a_newer_process,
    ),
    Scenario(
        "machine suspended briefly",
        "the clock jumps by 20 s, and the network has dropped the link",
        "every stream is complete",
        clocks.machine_suspended_briefly,
    ),
    Scenario(
        "machine suspended for an hour",
        "the clock jumps by an hour, and the network has dropped the link",
        "each stream is complete or ends with one clear error; the agent reconnects and serves",
        clocks.machine_suspended_for_an_hour,
    ),
    Scenario(
        "wall clock set back and forth",
        "each reading is wrong by up to a year; the link is cut meanwhile",
        "every stream is complete: no decision depends on the wall clock",
        clocks.wall_clock_set_back_and_forth,
    ),
)

OTHERS: Final[Sequence[Scenario]] = (
    Scenario(
        "backend killed and restarted",
        "the inference server crashes during many streams",
        "one clear error per stream; the link survives; later jobs run",
        backend_restarts.backend_killed_and_restarted,
    ),
    Scenario(
        "one client of many stops reading",
        "one of 50 clients keeps its connection and reads nothing",
        "only its job fails, with slow_consumer; all others complete; the agent holds about one "
        "window for it",
        slow_clients.one_client_of_many_stops_reading,
    ),
)

_RESUMES: Final = "the dialect has no resumption: a lost link ends its jobs"
_SCRIPTED: Final = "a scripted coordinator sends it (tests/faults/test_hostile_usepod.py)"

_FAILED_ONCE: Final = (
    "noticed within a minute; one clear error per stream, its run is cancelled; later jobs run"
)

ON_USEPOD: Final[Mapping[str, str]] = {
    "link stalls permanently": _FAILED_ONCE,
    "link half open": _FAILED_ONCE,
    "link half closed": _FAILED_ONCE,
    **dict.fromkeys(
        (
            "link stalls briefly",
            "link down for too long",
            "link slow and distant",
            "large request on a slow link",
            "frame head corrupted, to the agent",
            "frame head corrupted, to the coordinator",
            "coordinator crashes",
            "coordinator stops and starts again",
            "coordinator drains",
            "first URL unreachable",
            "connection accepted and reset",
            "agent stopped with running jobs",
            "agent stopped on a slow link",
            "agent stopped, jobs too long",
            "machine suspended for an hour",
            "backend killed and restarted",
        ),
        "",
    ),
}
"""What must hold over the dialect `usepod`, by the name of the scenario; "": the same."""

NOT_ON_USEPOD: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "link cut repeatedly",
            "clients arrive while the link is cut",
            "large request on a broken link",
            "agent stopped while the link is down",
            "agent stopped on a stalled link",
            "machine suspended briefly",
            "wall clock set back and forth",
        ),
        _RESUMES,
    ),
    "coordinator sends Drain": "the dialect has no drain of the coordinator",
    "job delivered repeatedly": _SCRIPTED,
    "agent stopped, end not acknowledged": "the dialect has no acknowledgements",
    "any byte corrupted": "without offsets, a damaged message is a gap, which only TLS detects",
    "token rotated": "the HTTP upgrade is the same",
    "link cut after each welcome": "its coordinator expects the agent back within a second",
    "agent replaced by a newer process": "the dialect has no field that asks for it",
    "one client of many stops reading": "the dialect has no window; the coordinator cancels the "
    "job (tests/integration/test_usepod_end_to_end.py)",
}
"""Why a scenario does not run over the dialect `usepod`."""


def scenarios_of(dialect: str) -> list[Scenario]:
    """Return the scenarios that run over a dialect, with what must hold there."""
    if dialect == SUBPROTOCOL:
        return list(TABLE)
    return [
        replace(one, expectation=ON_USEPOD[one.name] or one.expectation)
        for one in TABLE
        if one.name in ON_USEPOD
    ]


TABLE: Final = (*LINK, *COORDINATOR, *AGENT, *OTHERS)
