"""The laptop's library: HTTP, retries, rsync, downloads."""
