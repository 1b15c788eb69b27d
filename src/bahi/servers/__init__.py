"""Real Redis and PostgreSQL servers of our own, for a machine with nothing but Python.

They keep their data in BAHI_HOME and stop with the process that started them.
"""
