"""`python -m provider_agent.coordinator`."""

from provider_agent.coordinator.command import command

if __name__ == "__main__":
    command(prog_name="python -m provider_agent.coordinator")
