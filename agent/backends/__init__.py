"""What serves: the inference servers in use, how they are, what they offer, who gets a job."""
