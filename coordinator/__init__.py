"""A small reference coordinator, for development, tests and small self-hosted fleets."""
