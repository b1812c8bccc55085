"""How 10,000 agents come back after their coordinator was away.

`python -m bench.reconnect` prints a table and writes `docs/reconnect.svg`; docs/performance.md says
what both mean. The same code gives the same file.
"""

from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench.reconnect_picture import draw
from bench.reconnect_simulation import (
    LOST,
    RESTART,
    Course,
    Door,
    Outage,
    drained,
    peak_per_s,
    simulate,
    told,
)

AGENTS: Final = 10_000
SEED: Final = 4
PICTURE: Final = Path(__file__).parents[1] / "docs" / "reconnect.svg"

OUTAGES: Final = (
    Outage("closed with 1012, away for 3 s", RESTART, 3),
    Outage("closed with 1012, away for 8 s", RESTART, 8),
    Outage("closed with 1012, away for 30 s", RESTART, 30),
    Outage("Drain says 30 s, away for 10 s", drained(30), 10),
    Outage("crash, back at once", LOST, 0),
    Outage("crash, away for 5 s", LOST, 5),
    Outage("crash, away for 30 s", LOST, 30),
    Outage("crash, away for 300 s", LOST, 300),
    Outage("crash, 30 s of 503 (Retry-After: 10)", LOST, 30, told(10)),
    Outage("crash, opens 200/s, others told 5 s", LOST, 0, door=Door(200, 5)),
    Outage("crash, opens 200/s, others queue", LOST, 0, door=Door(200)),
    Outage("crash, away for 30 s, 200/s, queue", LOST, 30, door=Door(200)),
)


def main() -> None:
    """Simulate every outage, print what came of it, and draw it."""
    courses = [(outage, simulate(outage, AGENTS, SEED)) for outage in OUTAGES]
    table = Table(box=box.MARKDOWN)
    table.add_column("outage", no_wrap=True)
    for column in ("all back", "mean/s", "peak/s", "peak ÷ mean", "arrivals/s", "dials"):
        table.add_column(column, justify="right")
    for outage, course in courses:
        table.add_row(outage.name, *_figures(outage, course))
    Console(width=120).print(table)
    PICTURE.write_text(draw(courses), encoding="utf-8")
    print(f"Drawn: {PICTURE.relative_to(PICTURE.parents[1])}")


def _figures(outage: Outage, course: Course) -> list[str]:
    peak = peak_per_s(course.connections)
    return [
        f"{course.connections[-1] - outage.back_s:.0f} s",
        f"{course.mean_per_s:,.0f}",
        f"{peak:,}",
        f"{peak / course.mean_per_s:.2f}",
        f"{peak_per_s(course.arrivals):,}",
        f"{len(course.dials) / AGENTS:.1f}",
    ]


if __name__ == "__main__":
    main()
