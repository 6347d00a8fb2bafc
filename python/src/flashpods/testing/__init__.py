"""Adapters in memory, for tests: the same contracts as the real ones, simple code."""
