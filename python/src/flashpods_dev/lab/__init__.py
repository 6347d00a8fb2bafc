"""Machines with systemd in namespaces: ``./dev lab``. See ``lab/README.md``."""
