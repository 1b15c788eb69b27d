"""The role `api`: the REST application, served by uvicorn."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
import uvicorn
from sqlalchemy import text

from api.app import create_app
from api.ports import KiteTerms
from api.routes.broker import PaperLogin
from bahi.audit_processes import ProcessExport, ProcessVerifier
from bahi.rest import rest_dependencies
from bahi.roles.base import Partition
from bahi.roles.heartbeat import check_alive, check_feed
from bahi.telemetry.metrics import instrument_check
from bahi.wiring import House
from brokers.kite.login import KiteLogin
from eventstore.archived import ArchiveWatch

log = structlog.get_logger(__name__)


class PortInUse(OSError):
    """The port that was asked for is taken."""


class RestRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        async def log_is_there() -> None:
            for each in house.logs:
                await each.last_position()

        async def database_is_there() -> None:
            async with house.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

        async def scheduler_runs() -> None:
            await check_alive(house.redis, "scheduler")

        async def feed_runs() -> None:
            await check_feed(house.redis)

        async def worker_runs() -> None:
            await check_alive(house.redis, "worker")

        checks = {
            "log": log_is_there,
            "database": database_is_there,
            "scheduler": scheduler_runs,
            "feed": feed_runs,
            "worker": worker_runs,
        }
        self._watches = [ArchiveWatch(each) for each in house.logs]
        environment = {
            "BAHI_HOME": str(house.settings.home),
            "BAHI_REDIS_URL": house.redis_url,
            "BAHI_DATABASE_URL": house.database_url,
        }
        self._verifier = ProcessVerifier(environment, house.clock)
        deps = rest_dependencies(
            engine=house.engine,
            desks=house.desks,
            redis=house.redis,
            keys=house.keys,
            logins={"paper": PaperLogin(), "kite": KiteLogin(house.kite.address, house.clock)},
            kite=KiteTerms(
                login_page=house.settings.kite_login,
                family=house.settings.kite_family,
                real_prices=house.settings.price_feed == "kite",
            ),
            hint=house.hints.publish,
            watches=self._watches,
            verifier=self._verifier,
            export=ProcessExport(environment),
            archive_patience=house.settings.archive_patience.total_seconds(),
            registry=house.metrics.registry,
            checks={part: instrument_check(part, check, house.metrics) for part, check in checks.items()},
        )
        self._streams = deps.streams
        self._socket = _listen(house.settings.http_host, house.settings.http_port)
        config = uvicorn.Config(
            create_app(deps),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        self._server = _Server(config)
        self.address = "http://{}:{}".format(*self._socket.getsockname()[:2])

    async def run(self) -> None:
        log.info("listening", address=self.address)
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            for each in getattr(self._server, "servers", ()):  # when it was cancelled; a drained one has closed them
                each.close()
            # An application whose log is gone answers nobody any more: not on connections that are kept, nor what it
            # has begun.
            for connection in list(self._server.server_state.connections):
                connection.shutdown()
            for request in list(self._server.server_state.tasks):
                request.cancel()
            self._socket.close()
            await self._streams.aclose()
            await self._verifier.aclose()
            for watch in self._watches:
                await watch.aclose()

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._streams.aclose()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process drains all roles in order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"cannot listen on {host}:{port} ({error.strerror}): another program has it; "
            f"stop that one, or choose another port with BAHI_HTTP_PORT"
        ) from error
    listener.listen(512)
    return listener
