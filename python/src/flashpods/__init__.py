"""Flashpods: one NixOS host as a coding agent's build, test and sub-agent machine."""

__version__ = "0.1.0"
