"""The agents' side: WebSocket connections, the registry of agents, and routing."""
