"""What a bahi process does: the roles, each a service with `run` and `stop`, and the process that runs some of them."""
