"""PostgreSQL: the tables, their migrations, and the stores that the API is given.

Money is numeric, times are timestamptz, secrets are sealed before they get here.
"""
