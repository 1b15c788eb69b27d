"""The engine's worlds, to record something small."""

from tests.engine.conftest import open_world, world

__all__ = ["open_world", "world"]
