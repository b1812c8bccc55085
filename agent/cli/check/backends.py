"""Checks whether a backend is reachable and offers models, and requests short completions."""

from collections.abc import Sequence

from provider_agent.adapters.base import Backend, BackendError, BackendModel
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.health_check import BackendState
from provider_agent.agent.backends.local_servers import FoundServer
from provider_agent.agent.backends.offer_groups import ServedModel, group_by_model
from provider_agent.agent.backends.offer_warnings import is_offered_in_usepod
from provider_agent.agent.cli.backend_report import report_of
from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.cli.check.servers import wrong_kind
from provider_agent.agent.cli.one_job import explain, run_one_job, statistics
from provider_agent.protocol.formats import MAIN_OPERATION, WireFormat

COMPLETION_TOKENS = 8
"""Enough to show that the model generates text, at negligible cost on a paid service."""

MAX_LISTED_MODELS = 3
"""Models in one finding; `provider-agent models` lists all."""

COMPLETION_TIMEOUT_S = 120.0
"""A server may load its model on the first request."""


def skipped_backend(skipped: SkippedBackend) -> Finding:
    """Return the finding for a backend whose key is missing or unusable."""
    advice = "set the key, or remove the backend"
    return Finding("backend", skipped.backend_id, Outcome.FAILED, skipped.reason, advice)


def missing_offer(served: Sequence[ServedModel], *, needs_price: bool) -> list[Finding]:
    """Return a failure if the backends have models, but none of them would be offered.

    Args:
        served: every model of every healthy backend.
        needs_price: whether the coordinator's dialect has no offer without a price.
    """
    offers = [group for group in group_by_model(served).values() if group.members]
    if not served or any(not needs_price or is_offered_in_usepod(group.price) for group in offers):
        return []
    details = "the agent would offer no model: not one has a known price"
    advice = "set prices in [pricing.models]"
    return [Finding("offer", "all models", Outcome.FAILED, details, advice)]


async def check_backend_state(
    state: BackendState, *, request_completions: bool, other: FoundServer | None = None
) -> list[Finding]:
    """Return the findings for one backend.

    Args:
        state: the result of the backend's last health check.
        request_completions: whether to request a short completion in each wire format that a model
            of the backend supports.
        other: the server at the backend's address, if it is of another kind than configured.
    """
    backend_id = state.backend.id
    if other is not None and not state.models:
        details = wrong_kind(state.backend.kind, other)
        return [Finding("backend", backend_id, Outcome.FAILED, details, _kind_advice(other))]
    if not state.health.reachable:
        details = state.health.last_error or "unreachable"
        details = details.removesuffix(f"; {state.health.advice}")
        return [Finding("backend", backend_id, Outcome.FAILED, details, _advice(state))]
    if not state.models:
        details = f"reachable, but has no model to offer{_withheld_suffix(state)}"
        advice = "load a model, or check `kind` and the `models` list of the backend"
        return [Finding("backend", backend_id, Outcome.FAILED, details, advice)]
    findings = [Finding("backend", backend_id, Outcome.OK, _describe(state))]
    if other is not None:
        details = wrong_kind(state.backend.kind, other)
        advice = _kind_advice(other)
        findings.append(Finding("backend", backend_id, Outcome.WARNING, details, advice))
    for wire_format in WireFormat:
        main = MAIN_OPERATION[wire_format]
        model = next((model for model in state.models if main in model.operations), None)
        if model is None:
            continue
        target = f"{model.model_id} ({wire_format})"
        if request_completions:
            findings.append(await _check_completion(state.backend, model, wire_format, target))
        else:
            findings.append(
                Finding(
                    "completion", target, Outcome.SKIPPED, "skipped because of --no-completions"
                )
            )
    return findings


def _kind_advice(other: FoundServer) -> str:
    return f'set `kind = "{other.kind}"` under [[backends]]'


def _advice(state: BackendState) -> str:
    """Return advice for an unreachable backend."""
    if state.health.advice:
        return state.health.advice
    if state.health.key_refused:
        return "check `api_key_env` or `api_key_file` under [[backends]]"
    if state.health.wrong_server:
        return "check `kind` and `url` under [[backends]]"
    if state.backend.native and state.health.timed_out:
        return "restart the server if it is frozen, or check `url` under [[backends]]"
    if state.backend.native and state.health.loading:
        return "start the server, or wait until it has loaded its model, or check `url`"
    if state.backend.native and state.health.answered:
        return "check the log of the server, and `kind` and `url` under [[backends]]"
    if state.backend.native:
        return "start the server, or check `url` under [[backends]]"
    return "check `url` under [[backends]], and the network"


def _describe(state: BackendState) -> str:
    names = [_describe_model(model) for model in state.models[:MAX_LISTED_MODELS]]
    more = len(state.models) - MAX_LISTED_MODELS
    models = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    latency = state.health.latency_ms or 0
    report = report_of(state)
    return f"responded in {latency:.0f} ms, {report.summary}; {models}{_withheld_suffix(state)}"


def _describe_model(model: BackendModel) -> str:
    window = (
        f"{model.context_window:,} tokens" if model.context_window else "context window unknown"
    )
    return f"{model.model_id} ({', '.join(sorted(model.operations))}; {window})"


def _withheld_suffix(state: BackendState) -> str:
    """Return the first withheld model, its reason, and the number of other withheld models."""
    if not state.withheld:
        return ""
    first = state.withheld[0]
    others = len(state.withheld) - 1
    more = f" and {others} other{'s' if others > 1 else ''}" if others else ""
    return f"; not offered: {first.model_id} ({first.withheld}){more}"


async def _check_completion(
    backend: Backend, model: BackendModel, wire_format: WireFormat, target: str
) -> Finding:
    try:
        result = await run_one_job(
            backend,
            MAIN_OPERATION[wire_format],
            model.model_id,
            "Say hello.",
            max_tokens=COMPLETION_TOKENS,
            timeout_s=COMPLETION_TIMEOUT_S,
        )
    except BackendError as error:
        advice = "try the same request with curl, and read the server's log"
        return Finding("completion", target, Outcome.FAILED, explain(error), advice)
    return Finding("completion", target, Outcome.OK, statistics(result))
