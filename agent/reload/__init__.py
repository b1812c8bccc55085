"""Reloads the configuration of a running agent."""
