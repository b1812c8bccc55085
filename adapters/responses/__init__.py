"""A response on its way to the job's sink: relayed, validated, and its failures classified."""
