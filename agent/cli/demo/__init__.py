"""`provider-agent demo`: coordinator, agent and a real inference server on this machine."""
