"""`provider-agent check`: the command, its checks of coordinators and backends, and findings."""
