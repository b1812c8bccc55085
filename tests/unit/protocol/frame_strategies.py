"""Hypothesis strategies for every frame of protocol version 1."""

from typing import Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    BackendLoad,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    Job,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    ModelOffer,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import MAX_DEADLINE_MS

IDS: Final = st.binary(min_size=16, max_size=16)
COUNTS: Final = st.integers(0, 2**53)
MAYBE_COUNTS: Final = st.none() | COUNTS
TEXTS: Final = st.text(max_size=40)
RATES: Final = st.none() | st.floats(allow_nan=False)
STATUSES: Final = st.integers(100, 599)
TEXT_LISTS: Final = st.lists(TEXTS, max_size=3)

_OFFERS = st.builds(
    ModelOffer,
    TEXTS,
    TEXT_LISTS,
    TEXT_LISTS,
    MAYBE_COUNTS,
    st.booleans(),
    TEXTS,
    COUNTS,
    MAYBE_COUNTS,
    MAYBE_COUNTS,
)

FROM_COORDINATOR: Final[SearchStrategy[CoordinatorFrame]] = st.one_of(
    st.builds(Challenge, st.binary(min_size=32, max_size=32), TEXTS),
    st.builds(
        Welcome,
        TEXTS,
        IDS,
        st.integers(100, 3_600_000),
        COUNTS,
        COUNTS,
        COUNTS,
        st.dictionaries(IDS, COUNTS, max_size=3),
    ),
    st.builds(Rejected, TEXTS, TEXTS, MAYBE_COUNTS),
    st.builds(
        Job,
        IDS,
        TEXTS,
        TEXTS,
        st.binary(max_size=400),
        st.integers(0, MAX_DEADLINE_MS),
        TEXTS,
        TEXTS,
    ),
    st.builds(Cancel, IDS, TEXTS),
    st.builds(Ack, IDS, COUNTS, final=st.booleans()),
    st.builds(Drain, TEXTS, COUNTS),
)

FROM_AGENT: Final[SearchStrategy[AgentFrame]] = st.one_of(
    st.builds(
        Hello,
        TEXTS,
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=64, max_size=64),
        TEXTS,
        TEXTS,
        st.none() | IDS,
        st.lists(st.builds(LiveJob, IDS, COUNTS, COUNTS), max_size=3),
    ),
    st.builds(
        Capabilities,
        COUNTS,
        st.lists(_OFFERS, max_size=3),
        st.builds(AgentLimits, COUNTS, MAYBE_COUNTS),
        st.dictionaries(TEXTS, TEXTS, max_size=3),
    ),
    st.builds(
        Heartbeat,
        COUNTS,
        COUNTS,
        COUNTS,
        RATES,
        RATES,
        RATES,
        RATES,
        st.lists(st.builds(BackendLoad, TEXTS, st.booleans(), COUNTS, COUNTS), max_size=3),
    ),
    st.builds(JobStarted, IDS, STATUSES, TEXTS, TEXTS),
    st.builds(Chunk, IDS, COUNTS, st.binary(max_size=400)),
    st.builds(JobResult, IDS, COUNTS, MAYBE_COUNTS, MAYBE_COUNTS, COUNTS, MAYBE_COUNTS),
    st.builds(
        JobError,
        IDS,
        COUNTS,
        TEXTS,
        TEXTS,
        st.none() | STATUSES,
        st.booleans(),
        MAYBE_COUNTS,
        st.binary(max_size=40),
    ),
    st.builds(Draining, COUNTS),
)
