"""`provider-agent setup`."""
