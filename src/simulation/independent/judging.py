"""The judgement: the rules of the history, those of the book, and those that hold the one against the other."""

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from simulation.independent.book import Book, Row
from simulation.independent.finding import Finding, Rule, in_order
from simulation.independent.history import at_the_end, read_all
from simulation.independent.strategies import Asked
from simulation.independent.tags import read_tag
from simulation.independent.told import Exited, Told

__all__ = ["judge"]

_A_MILL: Final = Decimal("0.00005")
_HALF_A_PAISA: Final = Decimal("0.0050001")
"""Amounts are told to the paisa, rounded."""


def judge(
    history: Iterable[Any],
    orders: Iterable[Any],
    trades: Iterable[Any],
    *,
    accounts: Mapping[str, int],
    ended: bool = False,
    log_ids: Collection[str] | None = None,
    skew: int = 5_000_000,
    market: Iterable[tuple[str, Decimal, int, int]] | None = None,
) -> list[Finding]:
    """What does not hold, by position; empty: everything does.

    `history` are the lines of an exported file as maps, from position 1 on; `orders` and `trades` the rows of the
    paper broker's book as maps of their columns, read after the history. `accounts` gives the owner of each account.
    `ended`: everything has come to its end, so no run may be alive, no order unresolved, no fill untold. `log_ids` are
    what our tags begin with in each epoch; None: whatever begins as this log's name does. `skew`: microseconds by which
    the broker's clock may be behind that of whoever decides. `market` are the trades that the listener got, as symbol,
    price, from when on it counts and when it was dealt with, in microseconds: with them the stops are judged, too.

    Never raises for what the inputs hold: what cannot be read is a finding.
    """
    told = read_all(history)
    book = Book(orders, trades)
    both = _Both(told, book, accounts, log_ids, skew=skew, ended=ended)
    both.judge()
    if ended:
        at_the_end(told)
    found = told.found + book.found + both.found
    if market is not None:
        found += told.guards.judge(market, told.last_at)
    return in_order(found)


class _Both:
    """The history against the book."""

    def __init__(
        self,
        told: Told,
        book: Book,
        accounts: Mapping[str, int],
        log_ids: Collection[str] | None,
        *,
        skew: int,
        ended: bool,
    ) -> None:
        self.found: list[Finding] = []
        self._told = told
        self._book = book
        self._accounts = accounts
        self._log_ids = log_ids
        self._skew = skew
        self._ended = ended
        self._of_tag: dict[str, Row] = {}
        self._strategy_of: dict[str, int] = {}
        """Of each order that is ours, by its id."""

    def judge(self) -> None:
        entries: dict[tuple[int, int], list[str]] = {}
        for row in self._book.rows.values():
            if (strategy := self._ours(row.tag)) is None:
                continue
            self._strategy_of[row.order_id] = strategy
            if row.tag in self._of_tag:
                self._find(Rule.PLACED_TWICE, f"{row.tag} is order {self._of_tag[row.tag].order_id}, too", row)
                continue
            self._of_tag[row.tag] = row
            order = self._told.asked.get(row.tag)
            if order is None:
                self._find(
                    Rule.NO_INTENT, f"{row.side} {row.quantity} {row.symbol}, {row.tag}, was never asked for", row
                )
                continue
            self._as_asked(row, order)
            if row.side == "BUY" and order.run and row.status != "rejected":
                entries.setdefault((order.strategy.id, order.run), []).append(row.tag)
        for (strategy, run), tags in entries.items():
            if len(tags) > 1:
                row = self._of_tag[tags[-1]]
                self._find(Rule.TWO_BUYS, f"run {run} of strategy {strategy} entered by {', '.join(tags)}", row)
        self._never_oversold()
        for order in self._told.asked.values():
            self._as_told(order, self._of_tag.get(order.tag))
        for exited in self._told.exits:
            self._realised(exited)

    def _ours(self, tag: str) -> int | None:
        """The strategy of an order that we placed."""
        parts = read_tag(tag)
        if parts is None:
            return None
        if self._log_ids is not None:
            return parts.strategy if parts.log in self._log_ids else None
        return parts.strategy if parts.log[:2] in self._told.families else None

    def _as_asked(self, row: Row, order: Asked) -> None:
        is_, was = (
            (row.side, row.quantity, row.symbol, row.product),
            (order.side, order.quantity, order.symbol, order.product),
        )
        if is_ != was:
            said = " ".join(map(str, was))
            self._find(Rule.ASKED, f"{row.tag} is {' '.join(map(str, is_))}; {said} was asked for", row)
        if self._accounts.get(row.account) != order.strategy.user:
            whose = f"user {order.strategy.user}'s strategy {order.strategy.id}"
            self._find(Rule.ACCOUNT, f"{row.tag} of {whose} is in the account {row.account}", row)
        if not order.recovered and row.placed_at < order.at - self._skew:
            self._find(Rule.TOO_EARLY, f"{row.tag} was placed at {row.placed_at}, and asked for at {order.at}", row)

    def _never_oversold(self) -> None:
        """Trade by trade. Excused is a strategy of which a sale surfaced: then the alert is what counts."""
        excused = {
            order.strategy.id
            for order in self._told.asked.values()
            if order.side == "SELL" and (order.surfaced or self._unheard(order))
        }
        held: dict[int, int] = {}
        done: set[int] = set()
        for trade in self._book.trades:
            strategy = self._strategy_of.get(trade.order_id)
            if strategy is None or trade.row is None:
                continue
            held[strategy] = now = held.get(strategy, 0) + (trade.quantity if trade.side == "BUY" else -trade.quantity)
            if now < 0 and strategy not in excused and strategy not in done:
                done.add(strategy)
                what = f"trade {trade.trade_id} sells {trade.quantity}, strategy {strategy} holds {now} then"
                self._find(Rule.OVERSOLD, what, trade.row)

    def _unheard(self, order: Asked) -> bool:
        """Given up, and traded all the same; the history does not know it yet."""
        row = self._of_tag.get(order.tag)
        return row is not None and order.final == "not_placed" and row.traded > order.filled

    def _as_told(self, order: Asked, row: Row | None) -> None:
        if row is None:
            if order.filled or order.order_id is not None:
                what = f"{order.tag}, order {order.order_id}, {order.filled} filled, is not in the book"
                self.found.append(Finding(Rule.NOT_IN_BOOK, what, order.position))
            return
        if order.order_id is not None and order.order_id != row.order_id:
            self._find(Rule.ORDER_ID, f"{order.tag} is told to be order {order.order_id}", row)
            return
        over = self._ended or order.final not in (None, "not_placed")
        if order.filled > row.traded or (over and order.filled < row.traded):
            what = f"{order.tag}: {order.filled} told to be filled, {row.traded} of {row.quantity} are"
            self._find(Rule.FILLS, what, row)
        elif order.filled and order.average is not None:
            value = row.first(order.filled)
            if abs(order.average * order.filled - value) > order.filled * _A_MILL:
                what = f"{order.tag}: told to be filled at {order.average}, {order.filled} cost {value}"
                self._find(Rule.FILLS, what, row)
        if order.final not in (None, "not_placed", row.status):
            self._find(Rule.FINAL, f"{order.tag} is told to have ended {order.final}, it is {row.status}", row)

    def _realised(self, exited: Exited) -> None:
        """Of the shares sold, at the average buying price."""
        bought = sold = 0
        cost = proceeds = Decimal(0)
        for order, filled in exited.fills:
            row = self._of_tag.get(order.tag)
            if row is None or row.traded < filled:
                return  # found already: the history tells of fills that the book does not have
            if order.side == "BUY":
                bought += filled
                cost += row.first(filled)
            else:
                sold += filled
                proceeds += row.first(filled)
        right = proceeds - (cost * sold / bought) if bought and sold else Decimal(0)
        if abs(right - exited.realised) > _HALF_A_PAISA:
            whose = f"run {exited.run} of strategy {exited.strategy}"
            what = f"{whose} realised {exited.realised}; its trades give {right:.2f}"
            self.found.append(Finding(Rule.REALISED, what, exited.position, partition=exited.partition))

    def _find(self, rule: Rule, what: str, row: Row) -> None:
        self.found.append(Finding(rule, what, order_id=row.order_id))
