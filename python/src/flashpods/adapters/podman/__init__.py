"""Rootless Podman over its REST socket; why not podman-py alone: docs/decisions/0002.

Nothing is imported here: the token service needs the REST client alone.
"""
