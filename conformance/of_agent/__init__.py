"""The cases for agents."""
