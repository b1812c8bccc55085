"""`make soak`: everything at once, for minutes or hours, with random faults."""
