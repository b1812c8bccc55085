"""When the agent serves: its schedule and pauses by hand."""
