"""The text of the `agent.toml` that `init` and `setup` write."""

import json
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from provider_agent.agent.backends.local_servers import FoundServer
from provider_agent.agent.cli.init.prices import Prices
from provider_agent.agent.cli.terminal import visible
from provider_agent.agent.config import LimitsConfig, ObservabilityConfig, Price
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.config.dialect import USEPOD
from provider_agent.agent.config.prices import dollars

MAX_NAMED_MODELS: Final = 5
"""Models in one comment or line of output; `provider-agent models` lists all."""


class OfferedServer(Struct, frozen=True):
    """One inference server of the file.

    Attributes:
        server: its kind and address.
        models: the ids of the models that it would offer.
        key_variable: the variable that holds its key; "" if it requires none.
        problem: why its models are unknown; "" if they are known.
    """

    server: FoundServer
    models: tuple[str, ...] = ()
    key_variable: str = ""
    problem: str = ""

    @property
    def summary(self) -> str:
        """The models, or why they are unknown, in printable characters."""
        if not self.models:
            return visible(self.problem or "it has no model to offer")
        named = ", ".join(self.models[:MAX_NAMED_MODELS])
        more = len(self.models) - MAX_NAMED_MODELS
        return visible(named + (f" and {more} more" if more > 0 else ""))


class Answers(Struct, frozen=True):
    """What the file contains.

    Attributes:
        coordinator_url: the coordinator's address.
        servers: the servers to offer.
        prices: the prices of their models.
        enrollment_code: the code for the coordinator; "" for none. A secret.
        allow_insecure: whether `ws://` to another machine is allowed.
        key_path: the key file; "" for the default.
        dialect: `[coordinator] dialect`; "" for the one that follows from the address.
        max_concurrent: `[limits] max_concurrent`; None for the default.
        command: the command that writes the file.
    """

    coordinator_url: str
    servers: tuple[OfferedServer, ...] = ()
    prices: Prices = Prices()
    enrollment_code: str = ""
    allow_insecure: bool = False
    key_path: str = ""
    dialect: str = ""
    max_concurrent: int | None = None
    command: str = "init"

    @property
    def leaves_price_open(self) -> bool:
        """Whether a model may have no price."""
        if self.prices.default is not None:
            return False
        models = {model for offered in self.servers for model in offered.models}
        return not self.prices.by_model or not models <= self.prices.by_model.keys()

    def __repr__(self) -> str:
        return f"<Answers {shown_url(self.coordinator_url)} servers={len(self.servers)}>"


def render(answers: Answers, *, show_code: bool = True) -> str:
    """Return the text of the file.

    Args:
        answers: the settings.
        show_code: whether the text contains the enrollment code and the query of the address.
    """
    sections = [
        _HEADER.format(command=answers.command),
        _coordinator(answers, show_code=show_code),
        _identity(answers.key_path),
        *(map(_backend, answers.servers) if answers.servers else [_NO_BACKEND]),
        _pricing(answers),
        _limits(answers.max_concurrent),
        _OBSERVABILITY,
    ]
    return "\n".join(sections)


def _string(text: str) -> str:
    """Return a TOML string. Unlike JSON, TOML does not allow DEL in it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_HEADER: Final = """\
# Settings of provider-agent, written by `provider-agent {command}`. `provider-agent check` verifies
# them; `provider-agent config show` prints them all. The value of a commented key is its default,
# or an example; docs/configuration.md describes every key.
"""

_NO_BACKEND: Final = """\
# One table per inference server, for example:
# [[backends]]
# kind = "vllm"                       # or llamacpp, lmstudio, ollama, openai_compatible
# url = "http://127.0.0.1:8000"
#
# [[backends]]
# kind = "openrouter"                 # or venice
# api_key_env = "OPENROUTER_API_KEY"  # the name of the variable, never the key
# models = ["acme/*"]
"""

_LIMITS: Final = LimitsConfig()
_OBSERVABILITY: Final = f"""\
[observability]
# prometheus_addr = {_string(ObservabilityConfig().prometheus_addr)}  # status; "" turns it off
# log_level = "info"
"""


def _coordinator(answers: Answers, *, show_code: bool) -> str:
    url = answers.coordinator_url
    shown = url if show_code else shown_url(url)
    note = "" if shown == url else "  # not shown completely"
    lines = ["[coordinator]", f"url = {_string(shown)}{note}"]
    if answers.dialect:
        lines.append(f"dialect = {_string(answers.dialect)}")
    if answers.allow_insecure:
        lines.append("allow_insecure = true  # ws:// sends prompts unencrypted")
    if answers.enrollment_code and show_code:
        lines.append("# A secret: only the owner of this file may read it.")
        lines.append(f"enrollment_code = {_string(answers.enrollment_code)}")
    elif answers.enrollment_code:
        lines.append('# enrollment_code = "…"  # not shown')
    else:
        lines.append('# enrollment_code = "…"  # if the coordinator requires one')
    return _text(lines)


def _identity(key_path: str) -> str:
    default = '# key_path = "~/.config/provider-agent/identity.key"'
    return _text(["[identity]", f"key_path = {_string(key_path)}" if key_path else default])


def _backend(offered: OfferedServer) -> str:
    server = offered.server
    lines = [
        f"# {server.name}: {offered.summary}",
        "[[backends]]",
        f"kind = {_string(server.kind)}",
        f"url = {_string(server.url)}",
    ]
    if offered.key_variable:
        lines.append(f"api_key_env = {_string(offered.key_variable)}  # the name, never the key")
    lines.append('# models = ["acme/*"]  # offer only these')
    return _text(lines)


def _limits(max_concurrent: int | None) -> str:
    number = _LIMITS.max_concurrent if max_concurrent is None else max_concurrent
    mark, drain = "# " if max_concurrent is None else "", f"{_LIMITS.drain_timeout_s:.0f}"
    return _text(
        [
            "[limits]",
            f"{mark}max_concurrent = {number}  # jobs at once, on all servers together",
            "# max_tokens_per_minute = 200_000",
            f"# drain_timeout_s = {drain}  # how long a stopping agent waits for its jobs",
        ]
    )


def _pricing(answers: Answers) -> str:
    # The Rust agent, which has the same file, does not read dollars.
    form = _in_millionths if answers.dialect == USEPOD else _in_dollars
    unit = "Millionths of a US dollar per" if answers.dialect == USEPOD else "Per"
    lines = [f"# {unit} million tokens.", "[pricing]"]
    default = answers.prices.default
    for name in ("input_per_1m", "output_per_1m"):
        if default is None:
            lines.append(f'# default_{name} = "0.50 USD"')
        else:
            amount = getattr(default, name)
            lines.append(f"default_{name} = {form(amount)}{_comment(form, amount)}")
    if answers.prices.by_model:
        lines += ["", "[pricing.models]"]
        lines += [_model_price(form, *item) for item in answers.prices.by_model.items()]
    return _text(lines)


def _model_price(form: Callable[[int], str], model: str, price: Price) -> str:
    pair = f"input_per_1m = {form(price.input_per_1m)}"
    pair += f", output_per_1m = {form(price.output_per_1m)}"
    comment = _comment(form, price.input_per_1m, price.output_per_1m)
    return f"{_string(model)} = {{ {pair} }}{comment}"


def _in_dollars(millionths: int) -> str:
    return _string(dollars(millionths))


def _in_millionths(millionths: int) -> str:
    return f"{millionths:_}"


def _comment(form: Callable[[int], str], *amounts: int) -> str:
    """Return a comment with the amounts in dollars, unless they are written so."""
    return "" if form is _in_dollars else f"  # {', '.join(map(dollars, amounts))}"


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
