"""Rootless Podman over its REST socket."""
