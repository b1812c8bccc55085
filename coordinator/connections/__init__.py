"""The TCP connections of clients and agents: limits, timeouts, and failed attempts to log in."""
