import pytest

from provider_agent.adapters.base import BackendModel, BackendSettings, Operation
from provider_agent.adapters.servers.model_selection import (
    LIST_IT,
    MAX_WITHHELD,
    NOT_LISTED,
    select_models,
)

CHAT = frozenset({Operation.CHAT})


def model(model_id: str, upstream_id: str = "", **overrides: object) -> BackendModel:
    defaults: dict[str, object] = {"context_window": None, "native": True, "operations": CHAT}
    fields = {**defaults, "upstream_id": upstream_id or model_id, **overrides}
    return BackendModel(model_id=model_id, **fields)  # type: ignore[arg-type]


def settings(**overrides: object) -> BackendSettings:
    return BackendSettings(kind="x", **overrides)  # type: ignore[arg-type]


def withheld_reasons(found: list[BackendModel], **overrides: object) -> dict[str, str]:
    return {one.model_id: one.withheld for one in select_models(found, settings(**overrides))}


@pytest.mark.parametrize(
    ("models", "native", "reason"),
    [
        (None, True, ""),
        (None, False, LIST_IT),
        (("*",), False, ""),
        (("acme/*",), False, ""),
        (("acme/*",), True, ""),
        (("other",), True, NOT_LISTED),
        (("other",), False, NOT_LISTED),
        ((), True, NOT_LISTED),
        (("acme/?b",), True, ""),
        (("other", "acme/8b"), True, ""),
        (("ACME/*",), True, NOT_LISTED),
        (("/disk/acme.gguf",), True, ""),
    ],
)
def test_models_setting_selects_and_passthroughs_require_it(
    models: tuple[str, ...] | None, native: bool, reason: str
) -> None:
    one = model("acme/8b", "/disk/acme.gguf", native=native)

    assert withheld_reasons([one], models=models) == {"acme/8b": reason}


def test_models_withheld_by_the_adapter_stay_withheld() -> None:
    offline = model("m", withheld="offline")

    assert withheld_reasons([offline], models=("*",)) == {"m": "offline"}


def test_model_without_operations_or_valid_id_is_withheld() -> None:
    found = withheld_reasons(
        [model("", "u"), model("x" * 513), model("without-operations", operations=frozenset())]
    )

    assert all(found.values())
    assert len(found) == 3


@pytest.mark.parametrize("target", ["/disk/acme.gguf", "acme"])
@pytest.mark.parametrize("models", [("my-*",), ("acme",), ("/disk/*",), None])
def test_alias_replaces_the_server_id_and_globs_match_both(
    target: str, models: tuple[str, ...] | None
) -> None:
    chosen = select_models(
        [model("acme", "/disk/acme.gguf"), model("other")],
        settings(aliases={"my-acme": target}, models=models),
    )

    by_name = {one.model_id: one for one in chosen}
    assert by_name.keys() == {"my-acme", "other"}
    assert by_name["my-acme"].upstream_id == "/disk/acme.gguf"
    assert by_name["my-acme"].withheld == ""
    assert (by_name["other"].withheld == "") is (models is None)


def test_model_with_two_aliases_is_offered_under_both() -> None:
    assert withheld_reasons([model("m")], aliases={"a": "m", "b": "m"}) == {"a": "", "b": ""}


def test_offered_model_wins_over_a_withheld_one_with_the_same_id() -> None:
    unloaded, loaded = model("m", "1", withheld="not loaded"), model("m", "2")

    for models in ([unloaded, loaded], [loaded, unloaded]):
        (one,) = select_models(models, settings())
        assert (one.upstream_id, one.withheld) == ("2", "")


@pytest.mark.parametrize(
    ("window", "expected"), [(4096, 4096), (0, None), (-1, None), (2**60, None), (None, None)]
)
def test_implausible_context_window_or_output_limit_is_unknown(
    window: int | None, expected: int | None
) -> None:
    reported = model("m", context_window=window, max_output_tokens=window)
    (one,) = select_models([reported], settings())

    assert (one.context_window, one.max_output_tokens) == (expected, expected)


def test_number_of_withheld_models_is_bounded_and_listed_ones_have_priority() -> None:
    catalog = [model(f"m{number:04}", native=False) for number in range(2000)]
    listed = [model("z-listed", native=False, withheld="offline"), model("z-good", native=False)]

    found = withheld_reasons([*catalog, *listed], models=("z-*",))

    withheld = [name for name, reason in found.items() if reason]
    assert len(withheld) == MAX_WITHHELD
    assert "z-listed" in withheld
    assert found["z-good"] == ""
    assert list(found) == sorted(found)
