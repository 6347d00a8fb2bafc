"""In-memory and temporary-directory adapters of the ports, for tests of the use cases."""
