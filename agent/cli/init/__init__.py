"""`provider-agent init`: finds inference servers, asks for the rest, writes `agent.toml`."""
