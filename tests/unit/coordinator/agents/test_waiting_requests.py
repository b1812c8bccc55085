from hypothesis import given
from hypothesis import strategies as st

from provider_agent.coordinator.agents.waiting_requests import WaitingRequests, Wanted
from provider_agent.protocol.formats import Operation

MODELS = ("a", "b", "c")


def wanted(model_id: str, *tried: bytes) -> Wanted:
    return Wanted(model_id, Operation.CHAT, frozenset(tried))


@given(
    st.lists(st.tuples(st.sampled_from(MODELS), st.booleans()), max_size=20),
    st.fixed_dictionaries({model: st.integers(0, 5) for model in MODELS}),
    st.integers(0, 8),
)
def test_free_slots_go_to_the_oldest_requests_that_can_use_them(
    arrivals: list[tuple[str, bool]], slots: dict[str, int], total: int
) -> None:
    # An agent with `total` free slots, of which each model may use some. It has already failed
    # some of the requests, which must not receive it again.
    queue, left = WaitingRequests(100), dict(slots)
    expected: list[int | None] = []
    for model_id, has_failed in arrivals:
        number = queue.add(wanted(model_id, *([b"agent"] if has_failed else [])))
        if not has_failed and left[model_id] and len(expected) < total:
            left[model_id] -= 1
            expected.append(number)
    placed: list[int] = []

    def place(number: int, request: Wanted) -> bool:
        used = len(placed)
        if request.tried or used >= total or not slots[request.model_id]:
            return False
        slots[request.model_id] -= 1
        placed.append(number)
        return True

    queue.dispatch(place)

    assert placed == expected
    assert len(queue) == len(arrivals) - len(expected)


def test_queue_is_bounded_and_removing_a_request_makes_room() -> None:
    queue = WaitingRequests(2)
    first, second = queue.add(wanted("a")), queue.add(wanted("b"))
    assert first is not None
    assert second is not None
    assert queue.add(wanted("a")) is None
    assert queue.count("a") == 1
    queue.remove(first, wanted("a"))
    queue.remove(first, wanted("a"))
    assert (len(queue), queue.count("a")) == (1, 0)
    assert queue.add(wanted("a")) is not None


def test_request_may_leave_the_queue_while_it_is_dispatched() -> None:
    queue = WaitingRequests(4)
    numbers = [queue.add(wanted("a", b"x")) for _ in range(3)]
    offered = []

    def place(number: int, request: Wanted) -> bool:
        offered.append(number)
        if number == numbers[0]:
            assert numbers[1] is not None
            queue.remove(numbers[1], request)
        return False

    queue.dispatch(place)
    assert offered == [numbers[0], numbers[2]]
