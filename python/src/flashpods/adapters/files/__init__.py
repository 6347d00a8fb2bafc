"""Adapters over plain files: logs, artifacts, workspaces, disk use."""
