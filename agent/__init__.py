"""The service: configuration, identity, link to the coordinator, discovery, routing and jobs."""
