"""Decides which live jobs continue when an agent resumes its session, on the coordinator's side.

The rules are those of docs/protocol.md, "Resumption", for the jobs that `Hello` lists.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from provider_agent.protocol.frames import LiveJob, ResumedJob
from provider_agent.protocol.receive_stream import ReceiveStream


class Resumption(Struct, frozen=True):
    """The jobs that a coordinator names in `Welcome.resumed`.

    Attributes:
        streams: responses that continue, by job id.
        request_offsets: the offset from which each of these jobs' requests continues, by job id.
        cancelled: the ids of live jobs that the coordinator has cancelled; the caller sends
            `Cancel` again for those in `streams`.
        delivered: ended jobs whose end the coordinator already has: job id → `total_bytes`.
    """

    streams: dict[bytes, ReceiveStream]
    request_offsets: dict[bytes, int]
    cancelled: set[bytes]
    delivered: dict[bytes, int]

    @property
    def resumed(self) -> list[ResumedJob]:
        """The entries of `Welcome.resumed`."""
        continued = [ResumedJob(job_id, s.received) for job_id, s in self.streams.items()]
        ended = [ResumedJob(job_id, size, ended=True) for job_id, size in self.delivered.items()]
        return continued + ended


NO_RESUMPTION = Resumption({}, {}, set(), {})
"""The resumption of an agent that starts a new session."""


def plan_resumption(
    live_jobs: Iterable[LiveJob],
    streams: Mapping[bytes, ReceiveStream],
    cancelled: Iterable[bytes],
    ended: Mapping[bytes, int],
) -> Resumption:
    """Decide which of an agent's live jobs continue.

    A job continues only if the agent can still send the next byte that the coordinator needs;
    otherwise the job has failed. Of a cancelled response, all bytes that the agent has already sent
    are skipped.

    Args:
        live_jobs: the live jobs of the agent's `Hello`.
        streams: the coordinator's streams whose end has not arrived, by job id. Those of cancelled
            jobs are changed.
        cancelled: the ids of those streams that the coordinator has cancelled.
        ended: job id → `total_bytes` of each job whose end the coordinator has.
    """
    result = Resumption({}, {}, set(), {})
    skipped = set(cancelled)
    for live in live_jobs:
        stream = streams.get(live.job_id)
        total_bytes = ended.get(live.job_id)
        if stream is not None:
            if live.job_id in skipped:
                stream.skip_to(live.next_offset)
                result.cancelled.add(live.job_id)
            if live.first_offset <= stream.received <= live.next_offset:
                result.streams[live.job_id] = stream
                result.request_offsets[live.job_id] = live.request_offset
        elif live.ended and total_bytes == live.next_offset:
            result.delivered[live.job_id] = total_bytes
    return result
