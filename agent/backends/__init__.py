"""The backends in use: their health, what they offer, and which one executes a job."""
