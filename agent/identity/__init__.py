"""The agent's key: where it is stored, and the lock that shows that an agent uses it."""
