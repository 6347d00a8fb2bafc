"""The tools, by what they are about; each module has a ``register``."""
