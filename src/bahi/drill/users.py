"""The users of a drill, over REST: what they ask for, and what they were told.

An answer is an acknowledgement: what it stands for must be in the history for ever. A request that was not answered is
made again with the same Idempotency-Key, as an app does; if that is not answered either, nobody was told anything.
"""

import time
import uuid
from collections.abc import Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx
from msgspec import Struct

from bahi.drill.plan import Action
from domain.values import SECOND

if TYPE_CHECKING:
    from bahi.drill.day import Day

__all__ = ["Acknowledged", "Users"]

PATHS: Final = {
    "create": ("POST", "/strategy/create"),
    "start": ("POST", "/strategy/start"),
    "stop": ("POST", "/strategy/stop"),
    "update": ("POST", "/strategy/update"),
    "halt": ("POST", "/halt"),
    "resume": ("DELETE", "/halt"),
}
ATTEMPTS: Final = 3
SOON: Final = 0.03
"""Seconds of real time after which a request that is not answered lets the day go on."""


class Acknowledged(Struct, frozen=True):
    """A request that was answered with success: by which ids its events are known, and what it said."""

    what: str
    user_id: int
    strategy_id: int
    requests: tuple[str, ...]
    """The ids of the attempts, as far as they were told."""
    body: dict[str, Any]
    answer: dict[str, Any]
    unanswered: int
    """How many attempts before it were not answered."""


class Users:
    """`ids` are the users', `strategies` the plan's strategies by number; `tokens` open the door."""

    def __init__(self, ids: list[int], strategies: list[int], tokens: Mapping[int, str]) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.answers: list[tuple[str, int]] = []
        self._ids = ids
        self._strategies = strategies
        self._created: dict[int, int] = {}
        self._tokens = tokens
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="users")
        self._http = httpx.Client(timeout=20)

    def close(self) -> None:
        self._pool.shutdown()
        self._http.close()

    def ask(self, action: Action, day: "Day") -> None:
        """Makes the request, while the engine goes on; says what came of it."""
        strategy_id = self._strategy(action)
        if strategy_id is None:  # it was never created, as far as the user knows
            return
        user_id = self._ids[action.user]
        body = dict(action.body) | ({"strategy_id": strategy_id} if strategy_id else {})
        key = uuid.uuid4().hex
        requests: list[str] = []
        for unanswered in range(ATTEMPTS):
            answered = self._await(self._pool.submit(self._request, action.what, user_id, body, key, day), day)
            if isinstance(answered, httpx.Response):
                requests.append(answered.headers.get("x-request-id", ""))
                self.answers.append((action.what, answered.status_code))
                if answered.status_code < 300:
                    self._told(action, user_id, strategy_id, tuple(requests), body, answered, unanswered)
                    return
                if answered.status_code < 500:
                    return
            else:
                self.answers.append((action.what, 0))
            day.settle(archive=True)

    def _request(
        self, what: str, user_id: int, body: dict[str, Any], key: str, day: "Day"
    ) -> httpx.Response | Exception:
        method, path = PATHS[what]
        address = next((each.address for each in day.processes if each.address), "")
        headers = {"authorization": f"Bearer {self._tokens[user_id]}", "idempotency-key": key}
        try:
            return self._http.request(method, address + path, json=body if method == "POST" else None, headers=headers)
        except httpx.HTTPError as error:
            return error

    def _await(self, asking: "Future[httpx.Response | Exception]", day: "Day") -> httpx.Response | Exception:
        begun = time.monotonic()
        while not asking.done():
            if time.monotonic() > begun + SOON:  # it waits for something that takes its time
                day.until(day.now + SECOND // 10)
            day.settle(archive=True)
            futures.wait([asking], timeout=0.003)
        return asking.result()

    def _strategy(self, action: Action) -> int | None:
        """Its id; 0 when the request needs none."""
        if action.strategy is None or action.what == "create":
            return 0
        if action.strategy < 0:
            return self._created.get(action.strategy)
        return self._strategies[action.strategy]

    def _told(
        self,
        action: Action,
        user_id: int,
        strategy_id: int,
        requests: tuple[str, ...],
        body: dict[str, Any],
        answered: httpx.Response,
        unanswered: int,
    ) -> None:
        answer = answered.json() if answered.content else {}
        if action.what == "create":
            strategy_id = self._created[action.strategy or 0] = int(answer["strategy_id"])
        told = Acknowledged(action.what, user_id, strategy_id, requests, body, answer, unanswered)
        self.acknowledged.append(told)
