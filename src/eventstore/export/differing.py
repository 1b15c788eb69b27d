"""What is different between a line of an event and what follows from its bytes, in words."""

import msgspec

__all__ = ["difference"]

_LONGEST = 60


def difference(line: bytes, expected: bytes) -> str:
    """One sentence about the first attribute that is not as it must be."""
    try:
        is_, must = msgspec.json.decode(line, type=dict), msgspec.json.decode(expected, type=dict)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return f"the line is not as it was written: {error}"
    for name in (*must, *(name for name in is_ if name not in must)):
        if name not in is_:
            return f"its {name} is missing; its bytes say {_short(must[name])}"
        if name not in must:
            return f"it has an attribute {name} that was not written"
        if is_[name] != must[name]:
            if isinstance(must[name], dict) and isinstance(is_[name], dict):
                return f"its {name} is not what its bytes say: {_inside(is_[name], must[name])}"
            return f"its {name} is {_short(is_[name])}, and its bytes say {_short(must[name])}"
    return "it says what its bytes say, and was not written so"


def _inside(is_: dict[str, object], must: dict[str, object]) -> str:
    for name in sorted(is_.keys() | must.keys()):
        if is_.get(name) != must.get(name):
            return f"{name} is {_short(is_.get(name))} instead of {_short(must.get(name))}"
    return "the same, in another order"


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
