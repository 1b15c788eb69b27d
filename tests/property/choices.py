"""What plays a world: bytes, one for each choice."""


class Choices:
    """The bytes that play the world; zeros when they are used up, so a shorter play is a simpler one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1] * n >> 8

    def one_in(self, n: int) -> bool:
        return self.below(n) == n - 1 if n > 1 else True

    @property
    def used_up(self) -> bool:
        return self._at >= len(self._data)
