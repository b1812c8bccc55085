"""Adapters for inference servers, and the request and response code that they share.

Nothing here depends on the agent or the coordinator.
"""
