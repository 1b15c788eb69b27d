"""The request and the answer of the append script, from and to our types. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.msgpack import Encoder

from domain import blind
from domain.events import UserHalted, UserResumed
from domain.values import Instant
from eventstore.batch import (
    MAX_EVENTS,
    Ack,
    Appended,
    AppendResult,
    Conflict,
    Duplicate,
    Halted,
    NoPermit,
    NotPending,
    Permit,
    RuntimeWrite,
    WrongEpoch,
)
from eventstore.envelope import Dedupe, Ids, NewEvent, encode
from eventstore.errors import DedupeMismatch, LogError
from eventstore.fields import encode_case
from eventstore.keys import GROUP, Keys

__all__ = ["Request", "halt_latch"]

_pack = Encoder().encode


def halt_latch(event: UserHalted) -> str:
    """What the latch holds: a JSON object with `square_off` and `reason`."""
    return msgspec.json.encode({"square_off": event.square_off, "reason": event.reason}).decode()


class Request:
    """One call of the script: its keys, its argument, and what its answer means."""

    def __init__(
        self, keys: Keys, ids: Ids, defaults: Mapping[str, object], epoch: str, now: Instant, seen: int = 0
    ) -> None:
        self._names = keys
        self._ids = ids
        self._defaults = defaults
        self.keys = [keys.epoch, keys.position]
        self._envelopes: list[bytes] = []
        self._numbers: dict[str, int] = {}
        self._request: dict[str, Any] = {"epoch": epoch, "now": now, "group": GROUP, "seen": seen, "events": []}
        self._permits: Sequence[Permit] = ()

    def arguments(self) -> list[bytes]:
        return [_pack(self._request), *self._envelopes]

    def events(self, events: Sequence[NewEvent], *, is_blind: bool) -> None:
        if len(events) > MAX_EVENTS:
            raise ValueError(f"{len(events)} events in one append, at most {MAX_EVENTS}: see append_many")
        for new in events:
            self._envelopes.append(encode(new, new.event_id or self._ids.next(), self._ids.writer))
            self._request["events"].append(self._event(new, is_blind))

    def _event(self, new: NewEvent, is_blind: bool) -> dict[str, Any]:
        event = new.event
        entry: dict[str, Any] = {
            "stream": self._key(self._names.streams[event.priority]),
        }
        if event.versioned and new.strategy_id:
            entry["strategy"] = self._key(self._names.strategy(new.strategy_id))
            entry["runtime"] = self._key(self._names.runtime(new.strategy_id))
            if is_blind and (cases := blind.cases(event)) is not None:
                entry["cases"] = [encode_case(case, self._defaults) for case in cases]
        if new.dedupe is not None:
            entry["dedupe"] = self._dedupe(new.dedupe)
        if isinstance(event, UserHalted):
            entry["halt"] = {"key": self._key(self._names.halt(new.user_id)), "value": halt_latch(event)}
        elif isinstance(event, UserResumed):
            entry["halt"] = {"key": self._key(self._names.halt(new.user_id))}
        return entry

    def guard(
        self,
        *,
        expected: int | None,
        strategy_id: int,
        dedupe: Dedupe | None,
        permit: Sequence[Permit],
        ack: Ack | None,
        entry_of: int | None,
    ) -> None:
        request = self._request
        if expected is not None:
            request["expected"] = expected
            request["strategy"] = self._key(self._names.strategy(strategy_id))
        if dedupe is not None:
            request["dedupe"] = self._dedupe(dedupe)
        if permit:
            self._permits = permit
            request["permits"] = [
                {"key": self._key(self._names.limit(p.counter)), "limit": p.limit, "ttl": p.ttl, "amount": p.amount}
                for p in permit
            ]
        if ack is not None:
            request["ack"] = {"stream": self._key(self._names.streams[ack.stream]), "id": ack.id}
        if entry_of is not None:
            request["entry"] = self._key(self._names.halt(entry_of))

    def write(self, runtime: RuntimeWrite, strategy_id: int, user_id: int) -> None:
        names = self._names
        self._request["strategy"] = self._key(names.strategy(strategy_id))
        self._request["runtime"] = self._key(names.runtime(strategy_id))
        write: dict[str, Any] = {
            "member": str(strategy_id),
            "replace": runtime.replace,
            "strategy_set": _flat(runtime.strategy_set),
            "strategy_delete": runtime.strategy_delete,
            "runtime_set": _flat(runtime.runtime_set),
            "runtime_delete": runtime.runtime_delete,
            "expire": runtime.expire_seconds,
        }
        write = {name: value for name, value in write.items() if value}
        if runtime.wake_at is not UNSET:
            write["timers"] = self._key(names.timers)
            write["wake_at"] = False if runtime.wake_at is None else runtime.wake_at
        if runtime.symbol_remove is not None:
            write["symbol_remove"] = self._key(names.symbol_strategies(runtime.symbol_remove))
        if runtime.symbol_add is not None:
            write["symbol_add"] = self._key(names.symbol_strategies(runtime.symbol_add))
        if runtime.user_add:
            write["user_add"] = self._key(names.user_strategies(user_id))
        self._request["write"] = write

    def _dedupe(self, dedupe: Dedupe) -> dict[str, Any]:
        return {"key": self._key(self._names.dedupe(dedupe.key)), "digest": dedupe.digest, "ttl": dedupe.ttl}

    def _key(self, name: str) -> int:
        """The number of a key, from 1 as Lua counts."""
        number = self._numbers.get(name)
        if number is None:
            self.keys.append(name)
            number = self._numbers[name] = len(self.keys)
        return number

    def result(self, answer: Sequence[Any]) -> AppendResult:
        """What the script answered. Raises DedupeMismatch."""
        match answer[0]:
            case b"Appended":
                return Appended(tuple(answer[2::2]), tuple(answer[3::2]), answer[1])
            case b"Duplicate":
                return Duplicate(tuple(answer[1::2]), tuple(answer[2::2]))
            case b"Conflict":
                return Conflict(answer[1])
            case b"NotPending":
                return NotPending()
            case b"NoPermit":
                return NoPermit(self._permits[answer[1] - 1].counter, answer[2], answer[3] * 1000)
            case b"Halted":
                return Halted()
            case b"WrongEpoch":
                return WrongEpoch(None if answer[1] is None else answer[1].decode())
            case b"DedupeMismatch":
                raise DedupeMismatch(self.keys[answer[1] - 1], answer[2].decode(), answer[3].decode())
            case other:
                raise LogError(f"the append script answered {other!r}")


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]
