"""The agent's key: its file, and the lock that shows that a running agent uses it."""
