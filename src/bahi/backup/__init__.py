"""Backups: everything that PostgreSQL holds, as of one moment, in one file; and back again into an empty installation.

Redis is in none: it is restored from the archive. Nor are BAHI_SECRET_KEYS, which open what is sealed in the file.
"""
