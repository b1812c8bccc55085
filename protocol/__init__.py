"""The protocol between agent and coordinator, sans-I/O: no sockets, clocks or randomness."""
