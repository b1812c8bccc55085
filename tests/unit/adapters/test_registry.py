import json
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from provider_agent.adapters import registry
from provider_agent.adapters.base import (
    PASSTHROUGH_POLICY,
    Backend,
    BackendModel,
    BackendSettings,
    BadRequest,
    BadStatus,
    BreakerRule,
    Job,
    Operation,
    PolicyMode,
    WireFormat,
)
from provider_agent.adapters.registry import (
    BUILT_IN_KINDS,
    ENTRY_POINT_GROUP,
    AdapterError,
    KnownKinds,
    backend_class,
    create_backend,
)
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.agent.backends.admission import AdmissionControl
from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.config import BackendConfig, ConfigError, load_config
from provider_agent.protocol.errors import ErrorCode

BUILT_IN = {
    "vllm": True,
    "llamacpp": True,
    "lmstudio": True,
    "ollama": True,
    "openrouter": False,
    "venice": False,
    "openai_compatible": True,
    "openai_passthrough": False,
    "echo": True,
}


class AcmeBackend(HttpBackend):
    """A third-party adapter that overrides class attributes of `Backend`."""

    kind = "acme"
    native = False
    default_url = "https://acme.example/api"
    breaker_rule = BreakerRule(failures=2, counts_client_errors=True)
    request_policy = PASSTHROUGH_POLICY.allowing({"x_acme_boost"})

    async def check_health(self) -> None:
        """Always report the server as healthy."""

    async def list_models(self) -> list[BackendModel]:
        return []


class AbstractBackend(Backend):
    """Does not implement the abstract methods."""

    kind = "acme"


class RaisingBackend(AcmeBackend):
    """Raises `error` when it is constructed."""

    error: ClassVar[BaseException]

    def __init__(self, settings: BackendSettings) -> None:
        raise self.error


class RefusingBackend(RaisingBackend):
    error = RuntimeError("no\nlicense")


class ExitingBackend(RaisingBackend):
    error = SystemExit(4)


class InterruptedBackend(RaisingBackend):
    error = KeyboardInterrupt()


class EmptyBackend(AcmeBackend):
    def __init__(self, settings: BackendSettings) -> None:
        """Do not call `Backend.__init__`."""


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Make `value` ("module:name") the entry point of the kind `acme`.

    The module `acme_adapter` has the classes of this file.
    """
    module = ModuleType("acme_adapter")
    module.__dict__.update(globals(), factory=lambda settings: settings)
    monkeypatch.setitem(sys.modules, "acme_adapter", module)
    entry = EntryPoint("acme", value, ENTRY_POINT_GROUP)

    def entry_points(*, group: str) -> EntryPoints:
        return EntryPoints([entry]).select(group=group)

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.parametrize(("kind", "native"), BUILT_IN.items())
def test_every_built_in_kind_can_be_created(kind: str, native: bool) -> None:
    backend = create_backend(BackendSettings(kind=kind, url="http://127.0.0.1:1"))

    assert isinstance(backend, Backend)
    assert backend.kind == kind
    assert backend_class(kind).native is native
    assert backend.native is native
    assert backend.id == (f"{kind}:http://127.0.0.1:1" if native else kind)


def test_built_in_kinds_are_known() -> None:
    assert KnownKinds() >= BUILT_IN_KINDS == set(BUILT_IN)


def test_built_in_kind_is_known_without_a_search_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def search(*, group: str) -> EntryPoints:
        raise AssertionError(group)

    monkeypatch.setattr(registry, "entry_points", search)

    assert "vllm" in KnownKinds()


def test_third_party_adds_a_kind_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "acme_adapter:AcmeBackend")

    backend = create_backend(BackendSettings(kind="acme"))

    assert isinstance(backend, AcmeBackend)
    assert "acme" in KnownKinds()
    assert backend.id == "acme"
    assert backend.settings.url == "https://acme.example/api"


def test_third_party_passthrough_defines_its_default_url_and_needs_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, "acme_adapter:AcmeBackend")

    def load(backend: str) -> BackendConfig:
        path = tmp_path / "agent.toml"
        coordinator = '[coordinator]\nurl = "wss://c.example"\n'
        path.write_text(f'{coordinator}[[backends]]\nkind = "acme"\n{backend}', "utf-8")
        return load_config(path, {}, {}, KnownKinds()).config.backends[0]

    assert load('api_key_env = "ACME_KEY"').url == "https://acme.example/api"
    with pytest.raises(
        ConfigError, match="acme needs a key: set the name of the environment variable"
    ):
        load("")


def test_third_party_kind_defines_its_breaker_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "acme_adapter:AcmeBackend")
    backend = create_backend(BackendSettings(kind="acme"))
    admission = AdmissionControl(backend, None, lambda: 0.0)

    for request in range(2):
        error = BadStatus(400, b"", ErrorCode.BAD_REQUEST)
        admission.failed(admission.start("m"), error, request)

    assert admission.is_open("m")


def test_third_party_kind_defines_its_request_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "acme_adapter:AcmeBackend")
    fields = {"model": "acme-1", "x_acme_boost": 9, "x_other": 1, "top_p": 0.5}
    request = json.dumps(fields).encode()
    job = Job(b"j" * 16, "acme-1", WireFormat.OPENAI, request, 60_000)

    def prepared(mode: PolicyMode) -> object:
        backend = create_backend(BackendSettings(kind="acme", request_policy=mode))
        assert isinstance(backend, HttpBackend)
        return json.loads(backend.prepare(job, Operation.CHAT).body)

    expected = {"model": "acme-1", "x_acme_boost": 9, "top_p": 0.5}
    assert prepared(PolicyMode.STRIP) == expected
    with pytest.raises(BadRequest, match="x_other"):
        prepared(PolicyMode.REFUSE)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("acme_adapter:Missing", "cannot be imported: .*; reinstall its package"),
        ("no_such_module_of_acme:AcmeBackend", "cannot be imported: .*; reinstall its package"),
        ("acme_adapter:factory", "is not a subclass of Backend; update its package"),
    ],
)
def test_broken_package_of_a_third_party_is_a_configuration_error(
    value: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, value)
    path = tmp_path / "agent.toml"
    path.write_text('[coordinator]\nurl = "wss://c"\n[[backends]]\nkind = "acme"\n', "utf-8")

    with pytest.raises(ValueError, match=problem):
        create_backend(BackendSettings(kind="acme"))
    with pytest.raises(ConfigError, match=rf"backends\[0\]\.kind: .*{problem}"):
        load_config(path, {}, {}, KnownKinds())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("AbstractBackend", "TypeError: Can't instantiate abstract class AbstractBackend .*"),
        ("RefusingBackend", "RuntimeError: no license"),
        ("ExitingBackend", "SystemExit: 4"),
        ("EmptyBackend", r"it does not call Backend\.__init__"),
    ],
)
def test_adapter_that_cannot_be_created_is_a_configuration_error(
    name: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In an earlier version, the exception of such an adapter ended the agent.
    install(monkeypatch, f"acme_adapter:{name}")
    problem = rf"the adapter of kind 'acme' cannot be created: {problem}; update its package$"
    configs = (BackendConfig(kind="echo"), BackendConfig(kind="acme"))

    with pytest.raises(AdapterError, match=problem):
        create_backend(BackendSettings(kind="acme"))
    with pytest.raises(ConfigError, match=rf"^backends\[1\]\.kind: {problem}"):
        make_backends(configs, {"ACME_KEY": "key"})


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise BaseException('a\\nb')", "BaseException: a b"),
        ("import no_such_module_of_acme", "ModuleNotFoundError: No module named .*"),
    ],
)
def test_module_that_raises_on_import_is_a_configuration_error(
    statement: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # In an earlier version, `sys.exit()` in an adapter's module ended the agent.
    (tmp_path / "acme_broken.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    install(monkeypatch, "acme_broken:AcmeBackend")

    with pytest.raises(AdapterError, match=rf"cannot be imported: {problem}; reinstall"):
        backend_class("acme")


def test_ctrl_c_while_an_adapter_is_imported_or_created_propagates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "acme_interrupted.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("acme_interrupted:AcmeBackend", "acme_adapter:InterruptedBackend"):
        install(monkeypatch, target)
        with pytest.raises(KeyboardInterrupt):
            create_backend(BackendSettings(kind="acme"))


def test_unknown_kind_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="'no-such-kind'"):
        create_backend(BackendSettings(kind="no-such-kind"))
