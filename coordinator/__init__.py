"""The reference coordinator: a complete implementation of the protocol's other side.

About 4,000 lines, one process, one event loop: OpenAI- and Anthropic-compatible HTTP for clients,
WebSockets for agents, routing, flow control, resumption. It is meant for development, tests and
self-hosted fleets. It keeps no state across restarts, and has no accounts, billing or TLS.
"""
