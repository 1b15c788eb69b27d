"""The migrations, oldest first. Never edit one that was released."""
