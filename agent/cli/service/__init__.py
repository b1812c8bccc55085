"""`provider-agent service`: runs the agent as a service of systemd or launchd."""
