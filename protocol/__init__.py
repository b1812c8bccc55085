"""The contract between agent and coordinator. No I/O, no clock, no randomness of its own."""
