"""The real adapters of the ports."""
