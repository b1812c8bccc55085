"""The link to the coordinator: dial, handshake, watchdogs, resumption and backoff."""
