"""A scene being told: given, when, then."""

from bahi.testing.story.expected import Expected
from bahi.testing.story.scene import Scene, Word, clock_time
from domain.events import LockAcquired
from domain.strategy import State


class Story:
    """A scene being told."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @property
    def state(self) -> State:
        return self.scene.state

    def when(self, *words: Word) -> "Story":
        """Tells the words, then asks once for a decision and folds it."""
        for word in words:
            word(self.scene)
        self.scene.take(self.scene.decide())
        again = self.scene.decide()
        assert again.events == (), f"the same question was answered again with {again.events}"
        return self

    def then(self, *expected: Expected) -> "Story":
        """The decision was exactly this, in this order. LOCK_ACQUIRED goes without saying."""
        assert self.scene.decided is not None, "say when() before then()"
        decided = [event for event in self.scene.decided if not isinstance(event, LockAcquired)]
        told = "\n  ".join(repr(event) for event in decided) or "nothing"
        assert len(decided) == len(expected), f"expected {[e.type.__name__ for e in expected]}, decided:\n  {told}"
        for one, event in zip(expected, decided, strict=True):
            fault = one.fault(event)
            assert not fault, f"{fault}\ndecided:\n  {told}"
        return self

    def then_nothing(self) -> "Story":
        return self.then()

    def then_wakes_at(self, text: str | None) -> "Story":
        """The next instant at which time alone could change the answer."""
        expected = None if text is None else clock_time(text)
        assert self.scene.wake_at == expected, f"wakes at {self.scene.wake_at}, expected {expected} ({text})"
        return self

    def then_state(self, **values: object) -> "Story":
        for name, value in values.items():
            found = getattr(self.scene.state, name)
            assert found == value, f"{name} is {found!r}, expected {value!r}"
        return self


def given(*words: Word) -> Story:
    """A story that begins with these words."""
    scene = Scene()
    for word in words:
        word(scene)
    return Story(scene)
