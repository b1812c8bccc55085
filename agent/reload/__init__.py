"""Reloading the configuration of a running agent."""
