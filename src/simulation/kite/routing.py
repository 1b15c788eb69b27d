"""The endpoints as a table: what a module of endpoints gives is a list of `Route`s."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from domain.values import Instant
from simulation.kite.accounts import Account, AttemptKind
from simulation.kite.errors import general
from simulation.kite.faults import Fault
from simulation.kite.limits import Limit
from simulation.kite.wire import Request, Response

if TYPE_CHECKING:
    from simulation.kite.sim import KiteSim

__all__ = ["Context", "Handler", "Route", "Router"]


class Context:
    """What a handler is given. `account` is the caller's; only routes without a session have none."""

    def __init__(
        self, sim: KiteSim, request: Request, parameters: dict[str, str], account: Account | None, now: Instant
    ) -> None:
        self.sim = sim
        self.request = request
        self.parameters = parameters
        """The values of the path's `{names}`."""
        self.now = now
        """The clock's time; `sim.now()` is the server's, which may be skewed."""
        self.order_id: str | None = None
        self.taken = False
        self.fault: Fault | None = None
        self._account = account

    @property
    def account(self) -> Account:
        if self._account is None:
            raise LookupError("this route has no session")
        return self._account


Handler = Callable[[Context], Response]


class Route(Struct, frozen=True, kw_only=True):
    """`path` with `{names}`, each one segment. `limit`: the rate limit it counts under.

    `session`: the caller must be logged in. `attempt`: an order call, which needs a listed IP address and is recorded.
    `prefixed`: it sits under the server's route prefix.
    """

    method: str
    path: str
    handler: Handler
    limit: Limit = Limit.OTHERS
    session: bool = True
    attempt: AttemptKind | None = None
    prefixed: bool = True


class Router:
    """Finds the route of a request: of those that fit, the one with the most literal segments."""

    def __init__(self, routes: Iterable[Route], prefix: str = "") -> None:
        """`prefix`: "" or such as "/oms". Raises ValueError when two routes have the same method and shape."""
        self._routes: dict[int, list[tuple[tuple[str, ...], Route]]] = {}
        seen = set()
        for route in routes:
            path = prefix.rstrip("/") + route.path if route.prefixed else route.path
            segments = tuple(path.strip("/").split("/"))
            shape = (route.method, tuple("{}" if _is_name(segment) else segment for segment in segments))
            if shape in seen:
                raise ValueError(f"{route.method} {route.path} is routed twice")
            seen.add(shape)
            self._routes.setdefault(len(segments), []).append((segments, route))
        for entries in self._routes.values():
            entries.sort(key=lambda entry: sum(map(_is_name, entry[0])))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and the values of its names. Raises KiteError 404 or 405."""
        asked = path.strip("/").split("/")
        known = False
        for segments, route in self._routes.get(len(asked), ()):
            if all(_is_name(segment) or segment == value for segment, value in zip(segments, asked, strict=True)):
                known = True
                if route.method == method:
                    names = {s[1:-1]: value for s, value in zip(segments, asked, strict=True) if _is_name(s)}
                    return route, names
        raise general(405, "Method not allowed") if known else general(404, "Route not found")


def _is_name(segment: str) -> bool:
    return segment.startswith("{")
