"""Signed commands of the operator to the running agent, from the same machine."""
