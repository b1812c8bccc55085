from provider_agent.coordinator.agents.model_names import MAX_NAMED, offered_instead


def test_a_bounded_number_of_models_is_named() -> None:
    assert offered_instead([]) == ""
    assert offered_instead(["a", "b"]) == "; offered: `a`, `b`"
    many = [f"m{number}" for number in range(MAX_NAMED + 2)]
    clause = offered_instead(many)
    assert clause.count("`") == 2 * MAX_NAMED
    assert clause.endswith(" and 2 more")
