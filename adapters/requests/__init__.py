"""What the agent changes in a request, and what it refuses to send."""
