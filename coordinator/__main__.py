"""`python -m coordinator`."""

from coordinator.command import command

if __name__ == "__main__":
    command(prog_name="python -m coordinator")
