"""The database: SQLite in WAL mode, one writer, many readers.

``store`` is the adapter, ``migrations`` the schema, ``writer`` the group commit, ``jobs`` and
``uploads`` the transactions, ``rows`` the way from rows to records, ``transfers`` who is writing
to an upload (shared with the rsync hook, hence free of heavy imports).
"""
