"""One module per kind of inference server, and what those modules share."""
