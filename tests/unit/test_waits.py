"""Who waits for room in an account's limits gets it before others that are due at the same time."""

from handlers.waits import Waits


def test_those_that_wait_come_first_the_longest_waiting_before_the_others() -> None:
    waits = Waits()
    waits.refused(87, "second", 20, "e1", "c")
    waits.refused(45, "second", 30, "e2", "c")
    waits.refused(87, "second", 40, "e1", "c")  # again: it waits since the first time
    assert waits.in_turn([42, 45, 47, 85, 87]) == [87, 45, 42, 47, 85]
    waits.decided(87, 50, placed=False)
    assert waits.in_turn([42, 45, 47, 85, 87]) == [45, 42, 47, 85, 87]
    assert waits.in_turn([]) == []
