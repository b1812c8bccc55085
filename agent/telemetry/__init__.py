"""Observability of the agent: logs, metrics, status and heartbeats.

- `rolling_stats`: statistics of the jobs that ended in the last 60 seconds.
- `metrics`: Prometheus counters since the start, and gauges read from the status.
- `status`: the agent's state as one Struct, and readiness derived from it.
- `reports`: builds the heartbeat and the status from the running agent.
- `status_server`: serves status, readiness and metrics over HTTP.
- `systemd`: notifies systemd of readiness and liveness.
- `traces`: exports traces of jobs to OpenTelemetry.
- `logs`: formats and redacts log records.
"""
