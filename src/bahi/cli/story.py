"""An order's story, made of its strategy's events: what caused it, what was known, what was asked, what came of it."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from bahi.cli.places import Places
from bahi.cli.plain import Plain
from bahi.cli.summary import Summaries, duration, money
from bahi.cli.times import Times
from domain import events as e
from domain.strategy import State, apply, initial
from domain.tags import parse_tag
from domain.values import SECOND, Duration, Final, Instant, Kind, OrderRequest, Side
from eventstore.envelope import Recorded

__all__ = ["Step", "Story", "as_object", "tell"]

WAITED: Duration = SECOND // 2
"""A decision that much after its trigger was held up."""
AFTERWARDS = 12
"""Events after the end that are told."""


class Step(Struct, frozen=True):
    """An event of the story: its part in it, and the time since the step before."""

    name: str
    it: Recorded
    text: str
    since: Duration | None


class Asked(Struct, frozen=True, kw_only=True):
    """What was asked of the broker. `recovered`: the log lost the intent, and the order book showed the order."""

    kind: Kind
    request: OrderRequest
    attempt: int
    cause: str
    until: Instant
    recovered: bool = False


class Story(Struct, frozen=True, kw_only=True):
    """`steps` are in the log's order; what happened after the order's end has the part `then`."""

    tag: str
    title: str
    strategy_id: int
    user_id: int
    run: int
    number: int
    asked: Asked
    order_id: str | None
    outcome: str
    filled: int
    average_price: Any
    checks: dict[str, str]
    sentences: list[str]
    steps: list[Step]
    timings: dict[str, Duration]


_NAMES: dict[type[e.Event], str] = {
    e.LockAcquired: "lock",
    e.ExecuteBuy: "request",
    e.ExecuteSell: "request",
    e.ExecuteStoploss: "request",
    e.OrderRecovered: "recovered",
    e.OrderAccepted: "outcome",
    e.OrderRejected: "outcome",
    e.OrderOutcomeUnknown: "outcome",
    e.OrderDenied: "outcome",
    e.OrderFilled: "fill",
    e.CancelRequested: "cancel",
    e.CancelRejected: "cancel",
    e.OrderCancelled: "cancel",
    e.ModifyRequested: "change",
    e.ModifyRejected: "change",
    e.OrderFinalized: "finalized",
    e.OrderRetryRequired: "follow-up",
}


def tell(tag: str, history: Sequence[Recorded], times: Times, others: Sequence[Instant] = ()) -> Story | None:
    """The story of the order with this tag; None if these events do not have it. `others`: when the account's other
    orders were decided, which an order may have to wait for."""
    begin = e.Intent | e.OrderRecovered
    found = next((n for n, it in enumerate(history) if isinstance(it.event, begin) and it.event.tag == tag), None)
    parts = parse_tag(tag)
    if found is None or parts is None:
        return None
    intent = history[found]
    event = _asked(intent.event)
    before = _before(history[:found], parts.strategy_id, intent.user_id)
    cause = _cause(history[:found], event.cause or intent.causation_id)
    if cause is None and not event.recovered:
        cause = _trigger(history[:found], event, parts.run)
    say = Summaries(times)
    mine = [it for it in history if getattr(it.event, "tag", None) == tag]
    end = next((it for it in mine if isinstance(it.event, e.OrderFinalized)), None)
    then = _then(history, tag, (end or mine[-1]).position)
    parts_of_it = [("cause", cause)] if cause else []
    parts_of_it += [(_NAMES.get(type(it.event), "event"), it) for it in mine]
    parts_of_it += [("then", it) for it in then]
    steps = _steps(parts_of_it, say)
    order_id = next((it.event.order_id for it in mine if getattr(it.event, "order_id", None)), None)  # type: ignore[attr-defined]
    checks = {} if event.recovered else _checks(before, event, history[:found])
    filled, price = _filled(mine)
    outcome = "in flight"
    if end is not None and isinstance(end.event, e.OrderFinalized):
        outcome = str(end.event.final)
    elif mine[-1] is not intent:
        outcome = _NAMES.get(type(mine[-1].event), mine[-1].event.type)
    request = event.request
    return Story(
        tag=tag,
        title=f"Order {tag}: {request.side} {request.quantity} {request.symbol}, strategy {parts.strategy_id}",
        strategy_id=parts.strategy_id,
        user_id=intent.user_id,
        run=parts.run,
        number=parts.number,
        asked=event,
        order_id=order_id,
        outcome=outcome,
        filled=filled,
        average_price=price,
        checks=checks,
        sentences=[
            _cause_sentence(cause, intent, event, times),
            *_wait_sentence(cause, intent, event, others),
            *([_checks_sentence(checks)] if checks else []),
            _request_sentence(intent, event, parts.number, times),
            *_outcome_sentences(mine, intent, event, filled, price),
            *_then_sentences(then, end),
        ],
        steps=steps,
        timings=_timings(cause, intent, mine, end),
    )


def _asked(event: e.Event) -> Asked:
    if isinstance(event, e.OrderRecovered):
        side = event.kind.side
        request = OrderRequest(
            symbol=event.symbol, side=side, quantity=event.quantity, product=event.product, tag=event.tag
        )
        return Asked(kind=event.kind, request=request, attempt=1, cause="", until=event.placed_at, recovered=True)
    assert isinstance(event, e.Intent)  # noqa: S101 (that is what was looked for)
    return Asked(kind=event.kind, request=event.request, attempt=event.attempt, cause=event.cause, until=event.deadline)


def _before(history: Sequence[Recorded], strategy_id: int, user_id: int) -> State:
    """The strategy as it was when the order was decided. What cannot be folded is passed over: `verify` names it."""
    state = initial(strategy_id, user_id)
    for it in history:
        if it.strategy_id == strategy_id and it.version:
            try:
                apply(state, it.event)
            except Exception:
                state.version = it.version
    return state


def _cause(history: Sequence[Recorded], event_id: str) -> Recorded | None:
    return next((it for it in reversed(history) if event_id and it.event_id == event_id), None)


def _trigger(history: Sequence[Recorded], event: Asked, run: int) -> Recorded | None:
    """What the first order of a kind was due by, when time alone woke its decision: it had to wait."""
    if event.attempt > 1:
        return None
    kinds: dict[Kind, type[e.BuyTriggered | e.SellTriggered | e.StoplossTriggered]] = {
        Kind.BUY: e.BuyTriggered,
        Kind.SELL: e.SellTriggered,
        Kind.STOPLOSS: e.StoplossTriggered,
    }
    kind = kinds.get(event.kind)
    for it in reversed(history):
        if kind is not None and isinstance(it.event, kind) and it.event.run == run:
            return it
    return None


def _then(history: Sequence[Recorded], tag: str, after: int) -> list[Recorded]:
    """What happened next: up to the strategy's stop, or until nothing of interest is left to tell."""
    told: list[Recorded] = []
    for it in history:
        if it.position <= after or getattr(it.event, "tag", None) == tag or not it.strategy_id:
            continue
        told.append(it)
        if isinstance(it.event, e.StrategyStopped) or len(told) == AFTERWARDS:
            break
    return told


def _steps(parts: Sequence[tuple[str, Recorded]], say: Summaries) -> list[Step]:
    steps: list[Step] = []
    last: Recorded | None = None
    for name, it in parts:
        since = None if last is None else it.recorded_at - last.recorded_at
        what = say(it.event)
        steps.append(Step(name, it, f"{it.event.type}: {what}" if what else it.event.type, since))
        last = it
    return steps


def _filled(mine: Sequence[Recorded]) -> tuple[int, Any]:
    filled, price = 0, None
    for it in mine:
        if isinstance(it.event, e.OrderFilled | e.OrderFinalized) and it.event.filled >= filled and it.event.filled:
            filled, price = it.event.filled, it.event.average_price or price
    return filled, price


def _checks(before: State, event: Asked, history: Sequence[Recorded]) -> dict[str, str]:
    """What the log knew when the order was decided, each a condition of the rules (architecture §4.1)."""
    halted = False
    for it in history:
        if isinstance(it.event, e.UserHalted | e.UserResumed):
            halted = isinstance(it.event, e.UserHalted)
    due = [name.removesuffix("_due") for name in ("buy_due", "sell_due", "stop_due") if getattr(before, name)]
    return {
        "status": str(before.status),
        "position": str(before.position),
        "open_quantity": str(before.open_quantity),
        "lock": before.lock_state,
        "due": ", ".join(due) or "nothing",
        "halted": "yes" if halted else "no",
        "attempt": str(event.attempt),
    }


# --- in plain sentences -----------------------------------------------------------------------------------------------

_WHY = {
    Kind.BUY: "to enter",
    Kind.SELL: "to exit",
    Kind.STOPLOSS: "to exit at the stop-loss",
    Kind.SURFACED: "to sell shares of an order that had surfaced",
}


def _cause_sentence(cause: Recorded | None, intent: Recorded, event: Asked, times: Times) -> str:
    why = _WHY[event.kind]
    if event.recovered:
        return (
            f"Its decision {why} was lost with the end of the log, and its cause with it; the broker's order book "
            f"showed the order, and it was taken up again at {times.full(intent.recorded_at)}."
        )
    if cause is None:
        return (
            f"Time caused it: the strategy was waiting, and at {times.full(intent.recorded_at)} it was decided {why}."
        )
    match cause.event:
        case e.BuyTriggered(due_at=due) | e.SellTriggered(due_at=due):
            late = cause.recorded_at - due
            when = f"{duration(late)} later" if late else "at that very moment"
            what = "BUY" if isinstance(cause.event, e.BuyTriggered) else "SELL"
            return f"The {what} was due at {times.full(due)}, and the scheduler fired it {when} ({cause.event_id})."
        case e.StoplossTriggered(tick=tick, stop_loss=stop):
            span = cause.recorded_at - tick.at
            lag = f"{duration(span)} after it" if span else "in the same instant"
            return (
                f"A trade of {tick.symbol} at {money(tick.price)} ({times.full(tick.at)}) was at or under the stop of "
                f"{money(stop)}; the trigger was recorded {lag} ({cause.event_id})."
            )
        case _:
            return f"{cause.event.type} at {times.full(cause.recorded_at)} woke the strategy, and it was decided {why}."


def _wait_sentence(cause: Recorded | None, intent: Recorded, event: Asked, others: Sequence[Instant]) -> list[str]:
    """An order that was due and decided much later, while others of its account went out, waited for its turn."""
    triggers = e.BuyTriggered | e.SellTriggered | e.StoplossTriggered
    if cause is None or not isinstance(cause.event, triggers) or event.attempt > 1:
        return []
    waited = intent.recorded_at - cause.recorded_at
    before = sum(cause.recorded_at <= at <= intent.recorded_at for at in others)
    if waited < WAITED or not before:
        return []
    orders = "one other order of the account was" if before == 1 else f"{before} other orders of the account were"
    return [f"It waited {duration(waited)} for its turn: {orders} placed meanwhile, and the broker takes only so many."]


def _checks_sentence(checks: dict[str, str]) -> str:
    lock = "no order was unresolved" if checks["lock"] == "free" else f"{checks['lock']} held the lock"
    halted = "the user was halted" if checks["halted"] == "yes" else "the user was not halted"
    return (
        f"When it was decided the strategy was {checks['status']}, its position {checks['position']} "
        f"({checks['open_quantity']} open), due was {checks['due']}, {lock}, and {halted}."
    )


def _request_sentence(intent: Recorded, event: Asked, number: int, times: Times) -> str:
    request = event.request
    what = f"{request.side} {request.quantity} {request.symbol} ({request.product})"
    if event.recovered:
        return f"It is to {what}: order {number} of its run, placed at {times.full(event.until)} by the broker's clock."
    price = "at the market" if request.price is None else f"at {money(request.price)}"
    return (
        f"{intent.writer} decided to {what} {price}: "
        f"order {number} of its run, attempt {event.attempt}, to be sent before {times.full(event.until)}."
    )


def _outcome_sentences(mine: Sequence[Recorded], intent: Recorded, asked: Asked, filled: int, price: Any) -> list[str]:
    told: list[str] = []
    for it in mine:
        span = it.recorded_at - intent.recorded_at
        since = "it was taken up again" if asked.recovered else "the decision"
        after = f"{duration(span)} after {since}" if span else "in the same instant"
        match it.event:
            case e.OrderRecovered(order_id=order_id):
                told.append(f"The broker has it as order {order_id}.")
            case e.OrderAccepted(order_id=order_id):
                told.append(f"The broker accepted it as order {order_id}, {after}.")
            case e.OrderRejected(reason=reason, text=text, curable=curable):
                said = f" ({text})" if text else ""
                cure = "asking again may help" if curable else "asking again would not help"
                told.append(f"The broker rejected it {after}: {reason}{said}; {cure}.")
            case e.OrderDenied(reason=reason):
                told.append(f"It was not sent: {reason}.")
            case e.OrderOutcomeUnknown(doubt=doubt):
                told.append(f"Whether it exists was unknown {after} ({doubt}); the book was asked.")
            case e.OrderCancelled():
                told.append(f"What was left of it was cancelled, {after}.")
            case e.OrderFinalized(final=final):
                told.append(_end_sentence(final, filled, price, asked.request, after))
            case _:
                continue
    if mine[-1] is intent and not asked.recovered:
        told.append("Nothing is known of it yet: it is being sent, or its sender died and the book will be asked.")
    return told


def _end_sentence(final: Final, filled: int, price: Any, request: OrderRequest, after: str) -> str:
    did = "bought" if request.side is Side.BUY else "sold"
    how = f"{filled} of {request.quantity} {did} at {money(price)}" if filled else f"nothing {did}"
    if final is Final.NOT_PLACED:
        return f"It ended {after}: it was not placed, {how}."
    return f"It ended {after}: {final}, {how}."


def _then_sentences(then: Sequence[Recorded], end: Recorded | None) -> list[str]:
    told: list[str] = []
    for it in then:
        span = 0 if end is None else it.recorded_at - end.recorded_at
        after = f"{duration(span)} later " if span else ""
        match it.event:
            case e.Intent(kind=kind, tag=tag):
                told.append(f"{after}the next order followed: {kind}, {tag}.")
            case e.OrderRetryRequired(attempt=attempt, reason=reason):
                told.append(f"{after}it was to be tried again after attempt {attempt}: {reason}.")
            case e.SafetyAbort(reason=reason):
                told.append(f"{after}the strategy was aborted: {reason}.")
            case e.StrategyExited(reason=reason, realised=realised):
                told.append(f"{after}the run ended by {reason}, with {money(realised)} realised.")
            case _:
                continue
    return [sentence[0].upper() + sentence[1:] for sentence in told]


def _timings(
    cause: Recorded | None, intent: Recorded, mine: Sequence[Recorded], end: Recorded | None
) -> dict[str, Duration]:
    told: dict[str, Duration] = {}
    begun = "recovery" if isinstance(intent.event, e.OrderRecovered) else "decision"
    if cause is not None:
        told["cause → decision"] = intent.recorded_at - cause.recorded_at
        if isinstance(cause.event, e.StoplossTriggered):
            told["tick → decision"] = intent.recorded_at - cause.event.tick.at
        elif isinstance(cause.event, e.BuyTriggered | e.SellTriggered):
            told["due → decision"] = intent.recorded_at - cause.event.due_at
    kinds = (("answer", e.OrderAccepted | e.OrderRejected | e.OrderOutcomeUnknown), ("first fill", e.OrderFilled))
    for name, cls in kinds:
        if (it := next((it for it in mine if isinstance(it.event, cls)), None)) is not None:
            told[f"{begun} → {name}"] = it.recorded_at - intent.recorded_at
    if end is not None:
        told[f"{begun} → end"] = end.recorded_at - intent.recorded_at
    return told


def as_object(story: Story, times: Times, places: Places, partition: int) -> dict[str, Any]:
    """For programs; spans in milliseconds."""
    plain = Plain(times)
    steps = [
        {
            "step": step.name,
            "position": places.plain(partition, step.it.position),
            "recorded_at": times.wall(step.it.recorded_at),
            "ms_since_previous": None if step.since is None else step.since / 1000,
            "type": step.it.event.type,
            "event_id": step.it.event_id,
            "causation_id": step.it.causation_id,
            "text": step.text,
            "data": plain(step.it.event),
        }
        for step in story.steps
    ]
    return {
        "tag": story.tag,
        "order_id": story.order_id,
        "strategy_id": story.strategy_id,
        "user_id": story.user_id,
        "run": story.run,
        "number": story.number,
        "kind": story.asked.kind,
        "request": plain(story.asked.request),
        "attempt": story.asked.attempt,
        "recovered": story.asked.recovered,
        "outcome": story.outcome,
        "filled": story.filled,
        "average_price": story.average_price,
        "checks": story.checks,
        "sentences": story.sentences,
        "steps": [step for step in steps if step["step"] != "then"],
        "afterwards": [step for step in steps if step["step"] == "then"],
        "timings_ms": {
            name.replace(" → ", "_to_").replace(" ", "_"): span / 1000 for name, span in story.timings.items()
        },
    }
