"""What runs: the life of each job, its one end, and its way out to the coordinator."""
