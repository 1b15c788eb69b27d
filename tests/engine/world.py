"""The world of `bahi.testing`, by the names that the engine's tests know it by."""

from bahi.testing.interfering import Died, HookedBroker
from bahi.testing.world import CLOSE, INFY, OPENING, USER, Process, World

__all__ = ["CLOSE", "INFY", "OPENING", "USER", "Died", "HookedBroker", "Process", "World"]
