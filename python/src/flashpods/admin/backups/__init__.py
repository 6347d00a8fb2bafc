"""Backups: made, kept, put back.

``names`` has the rules of names and retention; ``make`` writes a backup, ``files`` the archive of
artifacts and logs, ``status`` the file that monitoring reads; ``restore`` puts one back.
"""
