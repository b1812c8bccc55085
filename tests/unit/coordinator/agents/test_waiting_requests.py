import random

from hypothesis import given
from hypothesis import strategies as st

from provider_agent.coordinator.agents.waiting_requests import WaitingRequests, Wanted
from provider_agent.protocol.formats import Operation

MODELS = ("a", "b", "c")


def wanted(number: int, model_id: str = "a", *tried: bytes) -> Wanted:
    return Wanted(number, model_id, Operation.CHAT, frozenset(tried))


@given(
    st.lists(st.tuples(st.sampled_from(MODELS), st.booleans()), max_size=20),
    st.fixed_dictionaries({model: st.integers(0, 5) for model in MODELS}),
    st.integers(0, 8),
    st.randoms(use_true_random=False),
)
def test_free_slots_go_to_the_oldest_requests_that_can_use_them(
    arrivals: list[tuple[str, bool]], slots: dict[str, int], total: int, rng: random.Random
) -> None:
    # One agent has `total` free slots, and each model may use as many of them as `slots` says. Some
    # requests have already failed on the agent, and must not be sent to it again. Requests that an
    # agent refused are added again, so the order of the calls of `add` is not that of arrival.
    requests = [
        wanted(number, model_id, *([b"agent"] if has_failed else []))
        for number, (model_id, has_failed) in enumerate(arrivals)
    ]
    queue, left = WaitingRequests(100), dict(slots)
    expected: list[Wanted] = []
    for request in requests:
        if not request.tried and left[request.model_id] and len(expected) < total:
            left[request.model_id] -= 1
            expected.append(request)
    for request in rng.sample(requests, len(requests)):
        assert queue.add(request)
    placed: list[Wanted] = []

    def place(request: Wanted) -> bool:
        if request.tried or len(placed) >= total or not slots[request.model_id]:
            return False
        slots[request.model_id] -= 1
        placed.append(request)
        return True

    queue.dispatch(place)

    assert placed == expected
    assert len(queue) == len(arrivals) - len(expected)


def test_queue_is_bounded_and_removing_a_request_makes_room() -> None:
    queue = WaitingRequests(2)
    assert queue.add(wanted(1, "a"))
    assert queue.add(wanted(2, "b"))
    assert not queue.add(wanted(3, "a"))
    assert queue.count("a") == 1
    queue.remove(wanted(1, "a"))
    queue.remove(wanted(1, "a"))
    assert (len(queue), queue.count("a")) == (1, 0)
    assert queue.add(wanted(3, "a"))


def test_request_may_leave_the_queue_while_it_is_dispatched() -> None:
    queue = WaitingRequests(4)
    for number in range(3):
        queue.add(wanted(number, "a", b"tried"))
    offered = []

    def place(request: Wanted) -> bool:
        offered.append(request.number)
        queue.remove(wanted(1, "a"))
        return False

    queue.dispatch(place)
    assert offered == [0, 2]


def test_a_request_for_a_whole_response_does_not_hold_up_one_for_a_stream() -> None:
    queue = WaitingRequests(2)
    whole = Wanted(0, "a", Operation.CHAT, wants_stream=False)
    stream = Wanted(1, "a", Operation.CHAT, wants_stream=True)
    queue.add(whole)
    queue.add(stream)
    placed: list[Wanted] = []

    def place(request: Wanted) -> bool:
        if request.wants_stream:
            placed.append(request)
        return request.wants_stream

    queue.dispatch(place)
    assert placed == [stream]
    queue.remove(whole)
    assert len(queue) == 0
