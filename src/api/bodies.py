"""Request bodies: parsed by msgspec from the raw bytes, strictly, with every fault of every field reported at once.

FastAPI's own parsing reads JSON numbers as floats; here a price keeps the digits that were sent. A body is an object;
each of its fields is decoded by itself against the type in the Struct. No value is converted: "10" is no number.
Unknown fields, control characters and, for prices, more digits than any exchange uses are refused.
"""

import asyncio
import datetime as dt
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct, UnsetType
from starlette.requests import Request

from api.problems import FieldProblem, Problem, invalid

__all__ = ["ClockTime", "Exact", "parse", "read_body"]

T = TypeVar("T", bound=Struct)

READ_SECONDS = 10
LARGEST = 10**12

_NUMBER = re.compile(rb"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,8})?([eE][+-]?[0-9]{1,2})?")
_DIGITS = re.compile(r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,8})?")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?")
_DESCRIBED_RULES = (
    ("Expected `str` matching regex", "pattern"),
    ("Invalid enum value", "enum"),
)
_RULES = (
    (re.compile(r"Expected `.*` of length >="), "min_length"),
    (re.compile(r"Expected `.*` of length <="), "max_length"),
    (re.compile(r"Expected `\w+` >="), "minimum"),
    (re.compile(r"Expected `\w+` <="), "maximum"),
)


class _Unacceptable(ValueError):
    """A field's text is not in its form: the rule and the message."""


def _exact(raw: bytes) -> Decimal:
    """A number's literal, or a string of digits, without passing through a float."""
    if raw[:1] not in b'-0123456789"':
        raise _Unacceptable("type", "must be a number, or a string holding one")
    if raw[:1] == b'"':
        text = msgspec.json.decode(raw, type=str)
        value = Decimal(text) if _DIGITS.fullmatch(text) else None
    else:
        value = Decimal(raw.decode()) if _NUMBER.fullmatch(raw) else None
    if value is None or abs(value) >= LARGEST or (value and value.adjusted() < -8):
        raise _Unacceptable("number", "must be a decimal number of at most 12 digits and 8 decimals")
    return value if value == 0 or value.as_tuple().exponent <= 0 else value.quantize(1)  # type: ignore[operator]


def _clock_time(raw: bytes) -> dt.time:
    if raw[:1] != b'"':
        raise _Unacceptable("type", "must be a string, HH:MM or HH:MM:SS")
    if not _CLOCK.fullmatch(text := msgspec.json.decode(raw, type=str)):
        raise _Unacceptable("pattern", "must be HH:MM or HH:MM:SS, on the exchange's clock")
    return dt.time.fromisoformat(text)


Exact = Annotated[
    Decimal,
    Meta(
        description="exact decimal: a JSON number or a string of digits",
        extra={"parse": _exact},
        extra_json_schema={
            "type": ["number", "string"],
            "pattern": f"^{_DIGITS.pattern}$",
            "exclusiveMinimum": -LARGEST,
            "exclusiveMaximum": LARGEST,
        },
    ),
]
ClockTime = Annotated[
    dt.time,
    Meta(
        description="the exchange's wall clock (Asia/Kolkata), HH:MM or HH:MM:SS",
        extra={"parse": _clock_time},
        extra_json_schema={"type": "string", "pattern": f"^{_CLOCK.pattern}$", "examples": ["09:20"]},
    ),
]


async def read_body(request: Request, *, whatever_declared: bool = False) -> bytes:
    """The raw body of a JSON request. Its size is limited by `api.middleware.BodyLimit`.

    Raises 415 when it is declared as something else (unless that does not matter), 408 when it trickles in.
    """
    declared = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if declared != "application/json" and not whatever_declared:
        raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", "send the body as application/json")
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.body()
    except TimeoutError:
        raise Problem(408, "REQUEST_TIMEOUT", f"the body did not arrive within {READ_SECONDS} s") from None


def parse(raw: bytes, into: type[T]) -> T:
    """The body as a Struct. Raises 400 for what is not JSON, and 422 naming each field and the rule that it breaks.

    A field that the Struct does not have breaks one, unless the Struct is of those that take more than they know.
    """
    given = _object(raw)
    values: dict[str, Any] = {}
    errors: list[FieldProblem] = []
    fields = msgspec.structs.fields(into)
    for field in fields:
        if field.encode_name not in given:
            if field.required:
                errors.append(FieldProblem(field.encode_name, "required", "is missing"))
            continue
        try:
            values[field.name] = _value(bytes(given[field.encode_name]), _bare(field.type))
        except _Unacceptable as error:
            errors.append(FieldProblem(field.encode_name, *error.args))
    if into.__struct_config__.forbid_unknown_fields:
        unknown = given.keys() - {field.encode_name for field in fields}
        errors += [FieldProblem(_printable(name), "unknown", "is not a field of this request") for name in unknown]
    if errors:
        raise invalid(sorted(errors, key=lambda error: error.field))
    return into(**values)


def _object(raw: bytes) -> dict[str, Raw]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Raw])
    except msgspec.ValidationError as error:
        raise invalid([FieldProblem("", "type", "the body must be a JSON object")]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> Problem:
    reason = str(error) if isinstance(error, msgspec.DecodeError) else "not UTF-8, or nested too deeply"
    return Problem(400, "MALFORMED_JSON", f"the body is not JSON: {reason}")


def _value(raw: bytes, of: Any) -> Any:
    try:
        hook = _hook(of)
        value = msgspec.json.decode(raw, type=of) if hook is None else hook(raw)
    except msgspec.ValidationError as error:
        raise _explained(str(error), of) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    if isinstance(value, str) and any(unicodedata.category(character) == "Cc" for character in value):
        raise _Unacceptable("characters", "must not hold control characters")
    return value


def _bare(of: Any) -> Any:
    """A field's type without the possibility that it is missing."""
    if UnsetType in (args := get_args(of)):
        return Union[tuple(arg for arg in args if arg is not UnsetType)]  # noqa: UP007 - of a computed tuple
    return of


def _metas(of: Any) -> list[Meta]:
    if get_origin(of) in (Union, UnionType):
        return [meta for one in get_args(of) for meta in _metas(one)]
    return [meta for meta in get_args(of)[1:] if isinstance(meta, Meta)] if get_origin(of) is Annotated else []


def _hook(of: Any) -> Callable[[bytes], Any] | None:
    return next((meta.extra["parse"] for meta in _metas(of) if meta.extra and "parse" in meta.extra), None)


def _explained(message: str, of: Any) -> _Unacceptable:
    """msgspec's words as a stable rule, and the field's own description where a regular expression would be shown."""
    described = next((meta.description for meta in _metas(of) if meta.description), None)
    for start, rule in _DESCRIBED_RULES:
        if message.startswith(start):
            return _Unacceptable(rule, f"must be {described}" if described else message)
    return _Unacceptable(next((rule for form, rule in _RULES if form.match(message)), "type"), message.replace("`", ""))


def _printable(name: str) -> str:
    return "".join(character if character.isprintable() else "�" for character in name[:64])
