"""When is an order that may exist certainly absent? (architecture §5.4) Pure: the rule, and the readings it counts.

Absent means: at least three successful readings of the book since the order was unknown, none of which showed its tag,
the last after the quarantine. The quarantine counts from the moment the answer was due; time in which the book could
not be read does not count.
"""

from dataclasses import dataclass, field

from domain.facts import Policy
from domain.strategy import Order
from domain.values import DAY, Doubt, Instant, Tag


def quarantine_ends(order: Order, policy: Policy) -> Instant:
    """The earliest moment at which the order may be called absent: 120 s after an ambiguous answer (orders were seen to
    surface after 8 to 90 s), 10 s after a dead sender."""
    dead = order.doubt is Doubt.DEAD_SENDER
    return answer_due(order, policy) + (policy.quarantine_dead_sender if dead else policy.quarantine_ambiguous)


def answer_due(order: Order, policy: Policy) -> Instant:
    """The last moment at which the broker may have heard of the order, by any worker's clock."""
    return order.deadline + policy.request_timeout + policy.skew


@dataclass
class Searches:
    """The unknown orders of one account, and how often the book was read without them."""

    policy: Policy
    _readings: dict[Tag, int] = field(default_factory=dict)
    _dark_since: Instant | None = None
    _dark: list[tuple[Instant, Instant]] = field(default_factory=list)
    """The spans of the last day in which the book could not be read."""

    def failed(self, now: Instant) -> None:
        """The book could not be read."""
        if self._dark_since is None:
            self._dark_since = now

    def read(self, now: Instant) -> None:
        """The book could be read: the time since the first failure does not count for any search."""
        if self._dark_since is not None:
            self._dark = [span for span in self._dark if span[1] > now - DAY]
            self._dark.append((self._dark_since, now))
            self._dark_since = None

    def missed(self, order: Order, now: Instant) -> bool:
        """A reading at `now` did not show the order: is it absent?"""
        readings = self._readings[order.tag] = self._readings.get(order.tag, 0) + 1
        due = answer_due(order, self.policy)
        blind = sum(max(0, until - max(since, due)) for since, until in self._dark)
        return readings >= self.policy.sufficient_readings and now >= quarantine_ends(order, self.policy) + blind

    def settled(self, tag: Tag) -> None:
        """The order was found, or given up."""
        self._readings.pop(tag, None)
