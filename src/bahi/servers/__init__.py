"""Real Redis and PostgreSQL servers of our own, for a machine with nothing but Python.

They keep their data in BAHI_HOME and stop with the process that started them.
"""

from bahi.servers.folder import FolderInUse, ServerError
from bahi.servers.postgres import EmbeddedPostgres
from bahi.servers.redis import EmbeddedRedis
from bahi.servers.shared import Servers, attach_or_start

__all__ = ["EmbeddedPostgres", "EmbeddedRedis", "FolderInUse", "ServerError", "Servers", "attach_or_start"]
