"""The HTTP API: requests in, answers out, no rules."""
