from pathlib import Path

import pytest

from provider_agent.adapters.base import PolicyMode, WireFormat
from provider_agent.agent.backends.configured import SkippedBackend, make_backends
from provider_agent.agent.config import BackendConfig, TimeoutSettings


def test_backends_are_in_the_order_of_the_configuration() -> None:
    created = make_backends(
        (
            BackendConfig(kind="vllm", url="http://a:8000"),
            BackendConfig(kind="echo"),
            BackendConfig(kind="openrouter", api_key_env="KEY", markup=0.1),
        ),
        {"KEY": "sk-1"},
    )
    assert [one.id for one in created.usable] == ["vllm:http://a:8000", "echo", "openrouter"]
    assert created.markups == {"vllm:http://a:8000": None, "echo": None, "openrouter": 0.1}
    assert created.skipped == []


def test_settings_reach_the_backend() -> None:
    (backend,) = make_backends(
        (
            BackendConfig(
                kind="openai_compatible",
                url="http://a",
                api_key_env="KEY",
                models=("m*",),
                formats=(WireFormat.ANTHROPIC,),
                max_concurrent=3,
                timeouts=TimeoutSettings(
                    connect_s=1.5, first_byte_s=20.0, silence_s=7.0, total_s=90.0
                ),
                alias={"offered": "upstream"},
                request_policy=PolicyMode.REFUSE,
                venice_system_prompt=True,
            ),
        ),
        {"KEY": " sk-1\n"},
    ).usable
    settings = backend.settings
    assert settings.api_key == "sk-1"
    assert (settings.models, settings.formats) == (("m*",), (WireFormat.ANTHROPIC,))
    timeouts = backend.timeouts
    assert (timeouts.connect_s, timeouts.first_byte_s) == (1.5, 20.0)
    assert (timeouts.silence_s, timeouts.total_s) == (7.0, 90.0)
    assert dict(settings.aliases) == {"offered": "upstream"}
    assert settings.request_policy is PolicyMode.REFUSE
    assert settings.venice_system_prompt
    assert backend.max_concurrent == 3


def test_unset_settings_are_the_adapters_defaults() -> None:
    (backend,) = make_backends((BackendConfig(kind="echo"),), {}).usable
    assert backend.settings.api_key is None
    assert backend.timeouts == backend.default_timeouts
    assert backend.max_concurrent == backend.default_max_concurrent


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}, {"KEY": "  \n"}])
def test_a_missing_key_skips_its_backend_and_the_reason_names_the_variable(
    environ: dict[str, str],
) -> None:
    created = make_backends(
        (
            BackendConfig(kind="venice", api_key_env="KEY"),
            BackendConfig(kind="vllm", url="http://a", api_key_env="KEY"),
            BackendConfig(kind="echo"),
        ),
        environ,
    )
    reason = "the environment variable KEY (api_key_env) is not set, or is empty"
    assert [one.id for one in created.usable] == ["echo"]
    assert created.skipped == [
        SkippedBackend("venice", "venice", reason),
        SkippedBackend("vllm:http://a", "vllm", reason),
    ]


def test_a_native_backend_has_no_markup() -> None:
    created = make_backends((BackendConfig(kind="vllm", url="http://a", markup=0.5),), {})
    assert created.markups == {"vllm:http://a": None}


def test_backends_with_the_overflow_setting_are_listed_by_id() -> None:
    created = make_backends(
        (
            BackendConfig(kind="openrouter", api_key_env="A"),
            BackendConfig(kind="openrouter", api_key_env="B", overflow=True),
        ),
        {"A": "sk-a", "B": "sk-b"},
    )
    assert created.overflow == {"openrouter#2"}


def test_backends_with_several_keys_of_one_service_have_different_ids() -> None:
    created = make_backends(
        tuple(
            BackendConfig(kind="openrouter", api_key_env=name, markup=markup)
            for name, markup in [("A", 0.1), ("B", 0.2), ("C", 0.3)]
        ),
        {"A": "sk-a", "B": "sk-b", "C": "sk-c"},
    )
    assert created.markups == {"openrouter": 0.1, "openrouter#2": 0.2, "openrouter#3": 0.3}
    assert [one.settings.api_key for one in created.usable] == ["sk-a", "sk-b", "sk-c"]


def test_token_limits_are_listed_by_backend_id() -> None:
    created = make_backends(
        (
            BackendConfig(kind="venice", api_key_env="UNSET", max_tokens_per_minute=1),
            BackendConfig(kind="vllm", url="http://a"),
            BackendConfig(kind="openrouter", api_key_env="KEY", max_tokens_per_minute=500),
            BackendConfig(kind="openrouter", api_key_env="KEY", max_tokens_per_minute=700),
        ),
        {"KEY": "sk-1"},
    )
    assert created.tokens_per_minute == {"openrouter": 500, "openrouter#2": 700}


def test_repr_does_not_show_keys() -> None:
    created = make_backends(
        (BackendConfig(kind="venice", api_key_env="KEY"),), {"KEY": "sk-secret"}
    )
    assert "sk-secret" not in repr(created)
    assert "sk-secret" not in repr(created.usable[0].settings)


def test_a_missing_key_file_skips_its_backend_and_the_reason_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    config = BackendConfig(kind="venice", api_key_file=file)
    reason = f"the file {file} (api_key_file) cannot be read: No such file or directory"
    assert make_backends((config,), {}).skipped == [SkippedBackend("venice", "venice", reason)]
    file.write_text("sk-1\n", "utf-8")
    created = make_backends((config,), {})
    assert [one.settings.api_key for one in created.usable] == ["sk-1"]
    assert created.skipped == []


# --- a reload of the configuration ----------------------------------------------------------------

LOCAL = BackendConfig(kind="vllm", url="http://a")
FIRST, SECOND = (BackendConfig(kind="openrouter", api_key_env=name) for name in "AB")
KEYS = {"A": "sk-a", "B": "sk-b"}


def test_an_unchanged_backend_is_kept_in_any_order() -> None:
    before = make_backends((LOCAL, FIRST, SECOND), KEYS)
    after = make_backends(
        (SECOND, BackendConfig(kind="echo"), LOCAL),
        KEYS,
        before=before,
        busy_ids={one.id for one in before.usable},
    ).usable
    assert (after[0], after[2]) == (before.usable[2], before.usable[0])
    assert [one.id for one in after] == ["openrouter#2", "echo", "vllm:http://a"]


@pytest.mark.parametrize(
    "changed",
    [
        BackendConfig(kind="vllm", url="http://a", models=("m",)),
        BackendConfig(kind="vllm", url="http://a", alias={"a": "b"}),
        BackendConfig(kind="vllm", url="http://a", max_concurrent=3),
        BackendConfig(kind="vllm", url="http://a", timeouts=TimeoutSettings(connect_s=1)),
        BackendConfig(kind="vllm", url="http://a", request_policy=PolicyMode.REFUSE),
        BackendConfig(kind="vllm", url="http://a", api_key_env="A"),
    ],
)
@pytest.mark.parametrize(("busy", "new_id"), [(True, "vllm:http://a#2"), (False, "vllm:http://a")])
def test_a_changed_backend_is_created_again_with_a_unique_id(
    changed: BackendConfig, busy: bool, new_id: str
) -> None:
    before = make_backends((LOCAL,), KEYS)
    busy_ids = {"vllm:http://a"} if busy else set()
    (after,) = make_backends((changed,), KEYS, before=before, busy_ids=busy_ids).usable
    assert after is not before.usable[0]
    assert after.id == new_id


@pytest.mark.parametrize(
    "changed",
    [
        BackendConfig(kind="openrouter", api_key_env="A", markup=0.5),
        BackendConfig(kind="openrouter", api_key_env="A", max_tokens_per_minute=10),
        BackendConfig(kind="openrouter", api_key_env="SAME"),
    ],
)
def test_a_backend_is_kept_if_its_adapter_does_not_receive_the_changed_setting(
    changed: BackendConfig,
) -> None:
    before = make_backends((FIRST,), KEYS)
    created = make_backends((changed,), {**KEYS, "SAME": "sk-a"}, before=before)
    assert created.usable == before.usable
    assert created.markups == {"openrouter": changed.markup}


def test_a_changed_key_replaces_the_backend() -> None:
    before = make_backends((FIRST, SECOND), KEYS)
    after = make_backends((FIRST, SECOND), {**KEYS, "A": "sk-new"}, before=before).usable
    assert after[0] is not before.usable[0]
    assert after[1] is before.usable[1]
    assert [one.id for one in after] == ["openrouter", "openrouter#2"]


def test_two_backends_with_the_same_settings_are_both_kept() -> None:
    before = make_backends((FIRST, SECOND), {"A": "sk", "B": "sk"})
    after = make_backends((FIRST, SECOND), {"A": "sk", "B": "sk"}, before=before).usable
    assert after == before.usable
