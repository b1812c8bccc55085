"""Tries the backends for `check`: reachable, models, formats, a tiny completion in each format."""

from adapters.base import Backend, BackendError, BackendModel
from agent.backends import SkippedBackend
from agent.cli.findings import Finding, Outcome
from agent.cli.one_job import explain, figures, run_one_job
from agent.discovery import BackendState
from protocol.formats import MAIN_OPERATION, WireFormat

TINY_TOKENS = 8
"""Enough for a first word, and next to nothing at a paid service."""

TINY_TIMEOUT_S = 120.0
"""A server that loads its model on the first request needs this."""


def skipped_backend(skipped: SkippedBackend) -> Finding:
    """A backend whose key is not set."""
    reason = skipped.reason.removeprefix("skipped: ")
    advice = "set it in the agent's environment, or remove the backend"
    return Finding("backend", skipped.backend_id, Outcome.FAILED, reason, advice)


async def check_backend_state(state: BackendState, *, complete: bool) -> list[Finding]:
    """Everything about one backend; `complete` also asks it for a few tokens."""
    backend_id = state.backend.id
    if not state.health.reachable:
        details = state.health.last_error or "not healthy"
        mend = "mend [[backends]] url and api_key_env"
        advice = f"start the server, or {mend}" if state.backend.native else f"{mend}; try again"
        return [Finding("backend", backend_id, Outcome.FAILED, details, advice)]
    if not state.models:
        advice = "load a model, or check the `models` list of the backend"
        return [
            Finding("backend", backend_id, Outcome.FAILED, "healthy, but offers no model", advice)
        ]
    findings = [Finding("backend", backend_id, Outcome.OK, _describe(state))]
    for wire_format in WireFormat:
        model = next((model for model in state.models if wire_format in model.formats), None)
        if model is None:
            continue
        target = f"{model.model_id} ({wire_format})"
        if complete:
            findings.append(await _complete(state.backend, model, wire_format, target))
        else:
            findings.append(Finding("completion", target, Outcome.SKIPPED, "not asked for"))
    return findings


def _describe(state: BackendState) -> str:
    names = [_describe_model(model) for model in state.models[:3]]
    more = f" and {len(state.models) - 3} more" if len(state.models) > 3 else ""
    latency = state.health.latency_ms
    return f"healthy in {latency or 0:.0f} ms; {', '.join(names)}{more}"


def _describe_model(model: BackendModel) -> str:
    window = f", {model.context_window:,} tokens" if model.context_window else ""
    return f"{model.model_id} ({'+'.join(sorted(model.formats))}{window})"


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
