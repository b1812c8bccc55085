"""What the agent says of itself: figures, metrics, logs and a small status server."""
