"""The loads that every relay runs."""

from msgspec import Struct

KIB = 1024


class Load(Struct):
    """One load.

    Attributes:
        name: its label in the table.
        streams: concurrent streams.
        events: events of each job.
        jobs: jobs of each stream, one after another.
        rate: events per second and stream; 0: as fast as possible.
        ping_pong: whether each event is sent when the one before it has arrived.
        prompt: the size of each prompt, in bytes.
        backends: the number of inference servers.
        per_job: whether CPU time is counted per job instead of per event.
        coordinator: whether the reference coordinator runs this load too.
        versions: whether the other builds of the agent run it: compiled, and in other versions of
            Python.
        tls: whether all connections are encrypted.
        busy: whether other processes keep all processors busy.
    """

    name: str
    streams: int
    events: int = 250
    jobs: int = 1
    rate: float = 50
    ping_pong: bool = False
    prompt: int = 100
    backends: int = 1
    per_job: bool = False
    coordinator: bool = False
    versions: bool = False
    tls: bool = False
    busy: bool = False

    @property
    def paced(self) -> bool:
        """Whether the server does not write as fast as it can: only then does latency mean much."""
        return self.rate > 0 or self.ping_pong

    def arguments(self) -> list[str]:
        """The options of the load generator."""
        values = {
            "streams": self.streams,
            "events": self.events,
            "jobs": self.jobs,
            "rate": self.rate,
            "prompt": self.prompt,
            "backends": self.backends,
        }
        options = [f"--{name}={value}" for name, value in values.items()]
        return [*options, "--ping-pong"] if self.ping_pong else options


def _jobs(events: int, each: int, *, versions: bool = False, tls: bool = False) -> Load:
    name = f"{32 * each:,} jobs of {events} event{'s' * (events > 1)}, 32 at once"
    return Load(
        f"{name}, TLS" if tls else name,
        streams=32,
        events=events,
        jobs=each,
        rate=0,
        per_job=True,
        coordinator=not tls,
        versions=versions,
        tls=tls,
    )


LOADS = [
    Load("1 stream × 50/s", 1),
    Load("8 × 50/s", 8),
    Load("32 × 50/s", 32, coordinator=True, versions=True),
    Load("128 × 50/s", 128),
    Load("256 × 50/s", 256, coordinator=True, versions=True),
    Load("256 × 50/s, 8 servers", 256, backends=8),
    Load("1,000 × 50/s", 1000),
    Load("32 streams, unlimited rate", 32, events=20_000, rate=0),
    Load("256 streams, unlimited rate", 256, events=2_500, rate=0),
    Load("32 streams, one event at a time", 32, events=2_000, rate=0, ping_pong=True),
    _jobs(1, 63, versions=True),
    _jobs(20, 63),
    _jobs(200, 20),
    Load(
        "200 jobs with prompts of 256 KiB, 8 at once",
        streams=8,
        events=20,
        jobs=25,
        rate=0,
        prompt=256 * KIB,
        per_job=True,
    ),
    Load("32 × 50/s, TLS", 32, tls=True),
    Load("256 × 50/s, TLS", 256, tls=True),
    _jobs(1, 63, tls=True),
]

REST = [
    Load(f"{streams:,} × 50/s{', busy' * busy}", streams, busy=busy)
    for streams in (1, 4, 16, 64, 256, 1000)
    for busy in (False, True)
]
"""For the rest under load (ADR 19), which depends on the number of streams."""

QUICK = [
    Load("8 × 50/s", 8, events=25),
    Load("8 streams, one event at a time", 8, events=50, rate=0, ping_pong=True),
    Load("80 jobs of 20 events, 8 at once", 8, events=20, jobs=10, rate=0, per_job=True),
    Load("8 × 50/s, TLS", 8, events=25, tls=True),
]
"""A smoke run: figures of so few events mean little."""

USEPOD = [
    Load("32 × 50/s, dialects", 32, versions=True),
    Load("256 × 50/s, dialects", 256, versions=True),
    _jobs(1, 63, versions=True),
    _jobs(20, 63, versions=True),
]
"""For the dialects of the agent."""

QUICK_USEPOD = [Load("8 × 50/s, dialects", 8, events=25, versions=True)]

CLUSTER = [Load(f"{streams} × 50/s, cluster", streams, coordinator=True) for streams in (32, 128)]
"""For one coordinator and a cluster of two."""

QUICK_CLUSTER = [Load("8 × 50/s, cluster", 8, events=25, coordinator=True)]
