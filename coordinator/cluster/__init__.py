"""Several coordinators that serve one fleet of agents, connected through NATS.

Every coordinator has two roles. The **edge** of a job accepted the client's request, and owns the
job until its end. The **holder** has the WebSocket of the agent that runs the job. Where both are
one process, nothing passes through NATS. ADR 22 explains the design.
"""
