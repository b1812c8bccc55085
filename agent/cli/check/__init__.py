"""`provider-agent check`: one module per part that is checked."""
