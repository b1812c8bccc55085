"""The agents' side: WebSocket connections, admission of agents, and routing."""
