"""`make soak`: random faults under load, for minutes or hours."""
