"""Who calls, and what must stay secret: keys, passwords, tokens, sealed boxes."""
