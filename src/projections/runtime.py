"""The inline projection: a strategy's `State` as the two hashes `strategy:{id}` and `runtime:{id}`, and back.

A field that is absent stands for its default. `strategy:{id}` never expires and holds the config, the version (kept by
the append script) and the day's past orders; `runtime:{id}` holds the run and expires a day after a flat run's end.
`stop_loss` and `stop_revision` stand in both: the config, and what the script compares a trigger with.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import astuple, fields

from domain.strategy import State
from domain.values import DAY, SECOND, Instant, Status
from eventstore.batch import RuntimeWrite
from eventstore.fields import encode_field

DEFAULTS: dict[str, Any] = {
    f.name: f.default if f.default is not msgspec.NODEFAULT else f.default_factory() for f in fields(State)
}
"""What an absent field stands for."""

_KEPT_BY_THE_SCRIPT = frozenset({"id", "version", "updated_at", "position_in_log"})
IN_STRATEGY = frozenset(
    {"user_id", "symbol", "quantity", "buy_time", "sell_time", "product", "market_protection", "past"}
    | {"stop_loss", "stop_revision"}
)
_ONLY_IN_STRATEGY = IN_STRATEGY - {"stop_loss", "stop_revision"}
_NESTED = frozenset({"past", "order", "tries", "alerted"})
_WRITTEN = tuple(
    (at, name, name in IN_STRATEGY, name not in _ONLY_IN_STRATEGY)
    for at, name in enumerate(State.__struct_fields__)
    if name not in _KEPT_BY_THE_SCRIPT
)
_BLANK = astuple(State())

RUNTIME_KEPT = DAY // SECOND
"""Seconds that the final state of a flat run is kept."""


def decode_state(strategy_id: int, strategy: Mapping[str, str], runtime: Mapping[str, str]) -> State:
    """The state that the two hashes hold. Raises CorruptState if they hold something else."""
    values: dict[str, Any] = {**strategy, **runtime, "id": strategy_id}
    try:
        for name in _NESTED & values.keys():
            values[name] = msgspec.json.decode(values[name])
        state = msgspec.convert(values, State, strict=False)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptState(f"strategy {strategy_id}: {error}") from error
    if not runtime and state.version > 0:
        state.status = Status.STOPPED  # it has expired after a flat run
    return state


class CorruptState(Exception):
    """The runtime of a strategy cannot be read, or does not equal the fold of its events."""


def encode_change(before: State, after: State, wake_at: Instant | None, *, keep_timer: bool = False) -> RuntimeWrite:
    """What to write so that hashes holding `before` hold `after`. A new run replaces the runtime."""
    expired = before.position_in_log == 0  # the script writes it into every runtime
    replace = after.run != before.run or expired
    was, now = astuple(before), astuple(after)
    old = _BLANK if replace else was
    strategy_set: dict[str, str] = {}
    strategy_delete: list[str] = []
    runtime_set: dict[str, str] = {}
    runtime_delete: list[str] = []
    for at, name, in_strategy, in_runtime in _WRITTEN:
        value = now[at]
        if in_strategy and value != was[at]:
            _write(name, value, strategy_set, strategy_delete)
        if in_runtime and value != old[at]:
            _write(name, value, runtime_set, runtime_delete)
    in_market = after.alive or after.open_quantity != 0 or after.surfaced != 0
    was_in_market = before.alive or before.open_quantity != 0 or before.surfaced != 0
    idle = not in_market and after.status in (Status.STOPPED, Status.FAILED) and not after.start_requested
    return RuntimeWrite(
        strategy_set=strategy_set,
        strategy_delete=tuple(strategy_delete),
        runtime_set=runtime_set,
        runtime_delete=tuple(runtime_delete),
        replace=replace,
        expire_seconds=RUNTIME_KEPT if idle and not after.unresolved else None,
        wake_at=msgspec.UNSET if keep_timer else wake_at,
        symbol_add=after.symbol if in_market and not was_in_market else None,
        symbol_remove=after.symbol if was_in_market and not in_market else None,
        user_add=before.version == 0,
    )


def encode_state(state: State, wake_at: Instant | None) -> RuntimeWrite:
    """What to write so that the hashes hold exactly `state`, whatever they held before."""
    write = encode_change(State(), state, wake_at)
    deleting = tuple(sorted(IN_STRATEGY - write.strategy_set.keys()))
    return msgspec.structs.replace(write, replace=True, strategy_delete=deleting)


def _write(name: str, value: Any, setting: dict[str, str], deleting: list[str]) -> None:
    if value is None or value == DEFAULTS[name]:
        deleting.append(name)
    elif name in _NESTED:
        setting[name] = msgspec.json.encode(value).decode()
    else:
        encoded = encode_field(value)
        assert encoded is not None  # noqa: S101 (None was handled above)
        setting[name] = encoded


def differences(one: State, other: State) -> dict[str, tuple[object, object]]:
    """The fields in which two states differ."""
    return {
        name: (a, b) for name in State.__struct_fields__ if (a := getattr(one, name)) != (b := getattr(other, name))
    }


__all__ = [
    "DEFAULTS",
    "IN_STRATEGY",
    "RUNTIME_KEPT",
    "CorruptState",
    "decode_state",
    "differences",
    "encode_change",
    "encode_state",
]
