"""Sessions without a connection: detached, resumed or expired."""
