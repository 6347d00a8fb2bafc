"""SQLite: the store, its writer and its migrations."""
