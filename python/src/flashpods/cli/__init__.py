"""The flashpods command."""
