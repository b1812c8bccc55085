"""Shared by the WebSockets of agent and coordinator: socket options, message size, write times."""
