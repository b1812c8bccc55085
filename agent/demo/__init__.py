"""What `provider-agent demo` runs against: servers found here, or a real one of its own."""
