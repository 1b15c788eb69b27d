"""The command line: one file per command. Exit codes: 0 ok, 1 the check failed, 2 usage or unavailable."""
