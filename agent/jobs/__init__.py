"""Executes jobs: their admission, their attempts, their one end, and the outbox."""
