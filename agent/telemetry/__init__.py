"""What the agent reports about itself.

- `rolling_stats`: job statistics of the last 60 seconds.
- `metrics`: Prometheus counters and gauges.
- `reports`: collects heartbeat and status from a running agent; counts ended jobs.
- `status`: the status snapshot and the readiness rule.
- `status_server`: serves health, status and metrics over HTTP.
- `logs`: formats and redacts log records.
- `systemd`: readiness, watchdog and status notifications.
"""
