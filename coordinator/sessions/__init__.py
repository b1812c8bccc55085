"""State that outlives a connection: running jobs, offers, and detached sessions."""
