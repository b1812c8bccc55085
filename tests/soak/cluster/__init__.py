"""The soak test of a cluster: coordinators, agents and NATS are processes of their own."""
