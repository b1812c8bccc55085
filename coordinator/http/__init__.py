"""The clients' side: OpenAI- and Anthropic-compatible HTTP routes."""
