"""Tries the backends for `check`: reachable, models, formats, a tiny completion in each format."""

from provider_agent.adapters.base import Backend, BackendError, BackendModel
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.health_check import BackendState
from provider_agent.agent.cli.backend_report import report_of
from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.cli.one_job import explain, figures, run_one_job
from provider_agent.protocol.formats import MAIN_OPERATION, WireFormat

TINY_TOKENS = 8
"""Enough for a first word, and next to nothing at a paid service."""

MODELS_NAMED = 3
"""Models in one finding; `provider-agent models` lists all."""

TINY_TIMEOUT_S = 120.0
"""A server that loads its model on the first request needs this."""


def skipped_backend(skipped: SkippedBackend) -> Finding:
    """A backend whose key is not set."""
    advice = "set it in the agent's environment, or remove the backend"
    return Finding("backend", skipped.backend_id, Outcome.FAILED, skipped.reason, advice)


async def check_backend_state(state: BackendState, *, complete: bool) -> list[Finding]:
    """Everything about one backend; `complete` also asks it for a few tokens."""
    backend_id = state.backend.id
    if not state.health.reachable:
        details = state.health.last_error or "not healthy"
        mend = "mend [[backends]] url and api_key_env"
        advice = f"start the server, or {mend}" if state.backend.native else f"{mend}; try again"
        return [Finding("backend", backend_id, Outcome.FAILED, details, advice)]
    if not state.models:
        details = f"healthy, but offers no model{_withheld(state)}"
        advice = "load a model, or check the `models` list of the backend"
        return [Finding("backend", backend_id, Outcome.FAILED, details, advice)]
    findings = [Finding("backend", backend_id, Outcome.OK, _describe(state))]
    for wire_format in WireFormat:
        main = MAIN_OPERATION[wire_format]
        model = next((model for model in state.models if main in model.operations), None)
        if model is None:
            continue
        target = f"{model.model_id} ({wire_format})"
        if complete:
            findings.append(await _complete(state.backend, model, wire_format, target))
        else:
            findings.append(Finding("completion", target, Outcome.SKIPPED, "not asked for"))
    return findings


def _describe(state: BackendState) -> str:
    names = [_describe_model(model) for model in state.models[:MODELS_NAMED]]
    more = len(state.models) - MODELS_NAMED
    models = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    latency = state.health.latency_ms or 0
    report = report_of(state)
    return f"healthy in {latency:.0f} ms, {report.summary}; {models}{_withheld(state)}"


def _describe_model(model: BackendModel) -> str:
    window = f"{model.context_window:,} tokens" if model.context_window else "window unknown"
    return f"{model.model_id} ({', '.join(sorted(model.operations))}; {window})"


def _withheld(state: BackendState) -> str:
    """The first of the models that are not offered, with its reason."""
    if not state.withheld:
        return ""
    first = state.withheld[0]
    more = f", {len(state.withheld) - 1} others" if len(state.withheld) > 1 else ""
    return f"; not offered: {first.model_id} ({first.withheld}){more}"


async def _complete(
    backend: Backend, model: BackendModel, wire_format: WireFormat, target: str
) -> Finding:
    try:
        result = await run_one_job(
            backend,
            MAIN_OPERATION[wire_format],
            model.model_id,
            "Say hello.",
            max_tokens=TINY_TOKENS,
            timeout_s=TINY_TIMEOUT_S,
        )
    except BackendError as error:
        advice = "try the same request with curl; the server's own log says more"
        return Finding("completion", target, Outcome.FAILED, explain(error), advice)
    return Finding("completion", target, Outcome.OK, figures(result))
