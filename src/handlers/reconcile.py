"""When is an order that may exist certainly absent? (architecture §5.4) Pure: the rule, and the readings it counts.

Absent means: at least three successful readings of the book since the order was unknown, none of which showed its tag,
the last after the quarantine. The quarantine counts from the moment the answer was due; time in which the book could
not be read does not count.
"""

from dataclasses import dataclass, field

from domain.facts import Policy
from domain.strategy import Order
from domain.values import Doubt, Duration, Instant, Tag


def quarantine_ends(order: Order, policy: Policy) -> Instant:
    """The earliest moment at which the order may be called absent: 120 s after an ambiguous answer (orders were seen to
    surface after 8 to 90 s), 10 s after a dead sender."""
    due = order.deadline + policy.request_timeout + policy.skew
    dead = order.doubt is Doubt.DEAD_SENDER
    return due + (policy.quarantine_dead_sender if dead else policy.quarantine_ambiguous)


@dataclass
class _Search:
    since: Instant
    readings: int = 0
    blind: Duration = 0


@dataclass
class Searches:
    """The unknown orders of one account, and how often the book was read without them."""

    policy: Policy
    _searches: dict[Tag, _Search] = field(default_factory=dict)
    _dark_since: Instant | None = None

    def failed(self, now: Instant) -> None:
        """The book could not be read."""
        if self._dark_since is None:
            self._dark_since = now

    def read(self, now: Instant) -> None:
        """The book could be read: the time since the first failure does not count for any search."""
        if self._dark_since is not None:
            for search in self._searches.values():
                search.blind += max(0, now - max(self._dark_since, search.since))
            self._dark_since = None

    def missed(self, order: Order, now: Instant) -> bool:
        """A reading at `now` did not show the order: is it absent?"""
        search = self._searches.setdefault(order.tag, _Search(now))
        search.readings += 1
        enough = search.readings >= self.policy.sufficient_readings
        return enough and now >= quarantine_ends(order, self.policy) + search.blind

    def settled(self, tag: Tag) -> None:
        """The order was found, or given up."""
        self._searches.pop(tag, None)
