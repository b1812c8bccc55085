"""An agent whose connection another coordinator has."""

from collections.abc import Callable

from provider_agent.coordinator.agents.model_report import NO_REPORT, ModelReport
from provider_agent.coordinator.agents.routing import Candidate
from provider_agent.coordinator.cluster.messages import AgentEntry, ModelEntry
from provider_agent.coordinator.sessions.offers import OfferTable, operation_names
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.frames import AgentLimits, Capabilities, ModelOffer
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MAX_INTEGER


class RemoteAgent:
    """Implements `RoutableAgent` with the latest snapshot of the agent's holder.

    Its counts of jobs are those of the snapshot, plus the jobs that were sent from here since then.
    They may be wrong for a moment; the holder then refuses the job.

    Args:
        holder: the coordinator that has the agent's connection.
        entry: the agent in the holder's snapshot.
        submit: sends a job to the holder.
        is_reachable: whether the holder can be reached now.

    Attributes:
        public_key: the agent's identity.
        offers: what the agent offers.
        heartbeat: the agent itself, which has the reports.
        in_flight: jobs without an end.
        draining: whether the agent accepts no more jobs.
        send_queue_full: whether too many bytes of requests are queued for the agent.
    """

    def __init__(
        self,
        holder: bytes,
        entry: AgentEntry,
        submit: Callable[["RemoteAgent", Job], RunningJob],
        is_reachable: Callable[[], bool],
    ) -> None:
        self.holder = holder
        self.public_key = entry.public_key
        self._submit = submit
        self._is_reachable = is_reachable
        self._revision = 0
        self.offers = _offer_table(entry, self._revision)
        self._set_entry(entry)

    def __repr__(self) -> str:
        return f"<RemoteAgent at={self.holder.hex()} jobs={self.in_flight} offers={self.offers}>"

    @property
    def heartbeat(self) -> "RemoteAgent":
        """The source of `report`."""
        return self

    @property
    def process(self) -> int:
        """Which process of the agent is connected; see `ids.process_of`."""
        return self._entry.process

    @property
    def receipts(self) -> bool:
        """Whether the ends of its jobs have receipts."""
        return self._entry.receipts

    @property
    def overdue(self) -> bool:
        """Whether the agent may be lost, or its coordinator cannot be reached."""
        return self._entry.overdue or not self._is_reachable()

    def in_flight_of(self, model_id: str) -> int:
        """Jobs of one model without an end."""
        return self._in_flight_of.get(model_id, 0)

    def report(self, model_id: str) -> ModelReport:
        """Return what the agent reports about a model."""
        model = self._models.get(model_id)
        if model is None:
            return NO_REPORT
        return ModelReport(
            model.other_requests, model.cache_used, model.is_cold, model.is_down, model.job_s
        )

    def submit(self, job: Job) -> RunningJob:
        """Send a job to the agent's holder."""
        self.in_flight += 1
        self._in_flight_of[job.model_id] = self.in_flight_of(job.model_id) + 1
        self._is_changed = True
        return self._submit(self, job)

    def update(self, entry: AgentEntry) -> list[str]:
        """Replace the state by that of a newer snapshot; return the models with new offers."""
        if entry is self._entry and not self._is_changed:
            return []
        older = self.offers
        if _offered(entry) != _offered(self._entry):
            self._revision += 1
            self.offers = _offer_table(entry, self._revision)
        self._set_entry(entry)
        return [] if self.offers is older else self.offers.changed_models(older)

    def _set_entry(self, entry: AgentEntry) -> None:
        self._entry = entry
        self._is_changed = False
        """Whether jobs were sent from here since the snapshot."""
        self.in_flight: int = entry.in_flight
        self.draining = entry.draining
        self.send_queue_full = entry.send_queue_full
        self._models: dict[str, ModelEntry] = {model.model_id: model for model in entry.models}
        self._in_flight_of: dict[str, int] = {
            model.model_id: model.in_flight for model in entry.models if model.in_flight
        }


def _offered(entry: AgentEntry) -> list[tuple[str, list[str], int] | int]:
    """Return the part of an entry that the offers depend on."""
    models = [(model.model_id, model.operations, model.slots) for model in entry.models]
    return [entry.capacity, *models]


def _offer_table(entry: AgentEntry, revision: int) -> OfferTable:
    models = [
        ModelOffer(
            model_id=model.model_id,
            formats=[],
            operations=model.operations,
            context_window=None,
            native=False,
            backend_kind="",
            max_concurrent=model.slots,
        )
        for model in entry.models
    ]
    return OfferTable(Capabilities(revision, models, AgentLimits(entry.capacity)))


def entry_of(agent: Candidate, offers: OfferTable, *, receipts: bool, process: int) -> AgentEntry:
    """Return the entry of an agent that is connected here."""
    models = []
    for model_id, operations in offers.models.items():
        report = agent.heartbeat.report(model_id)
        models.append(
            ModelEntry(
                model_id=model_id,
                operations=list(operation_names(operations)),
                slots=offers.slots[model_id],
                in_flight=agent.in_flight_of(model_id),
                other_requests=min(report.other_requests, MAX_INTEGER),
                cache_used=report.cache_used,
                is_cold=report.is_cold,
                is_down=report.is_down,
                job_s=report.job_s,
            )
        )
    return AgentEntry(
        public_key=agent.public_key,
        capacity=offers.capacity,
        in_flight=agent.in_flight,
        draining=agent.draining,
        overdue=agent.overdue,
        send_queue_full=agent.send_queue_full,
        models=models,
        receipts=receipts,
        process=process,
    )
