"""Rootless Podman over its REST socket; why not podman-py alone: docs/decisions/0002."""

from flashpods.adapters.podman.runtime import PodmanRuntime

__all__ = ["PodmanRuntime"]
