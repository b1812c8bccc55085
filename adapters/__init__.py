"""One module per inference server, and the relay they share. Knows nothing of the coordinator."""
