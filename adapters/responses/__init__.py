"""Relays responses to the sink, validates them, and classifies their failures."""
