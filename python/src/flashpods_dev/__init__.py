"""The development stack behind ./dev; never installed on a host."""
