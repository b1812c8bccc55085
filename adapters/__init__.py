"""One module per inference server, and the HTTP relay they share. Knows nothing of the coordinator."""
