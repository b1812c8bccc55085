"""Checks and changes of a client's request before it is sent to a server."""
