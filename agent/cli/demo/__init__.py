"""The `demo` command: coordinator, agent and an inference server on this machine."""
