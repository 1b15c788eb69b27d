"""The schema of one exported event: the attributes of CloudEvents 1.0, with the event as `data`."""

from typing import Final

from bahi.schema.event import DIALECT, Schema, Types
from eventstore.export.cloudevents import CORRUPT

__all__ = ["envelope_schema"]

_LARGEST: Final = 2**31 - 1
"""CloudEvents integers have 32 bits; positions and ids may outgrow them and are strings of digits."""
_DIGITS: Final = {"type": "string", "pattern": "^(0|[1-9][0-9]*)$"}
_OF_AN_EVENT: Final = ["time", "datacontenttype", "data", "correlationid", "writer"]


def envelope_schema(types: Types) -> Schema:
    """CloudEvents' own attributes first, then our extensions, whose names the standard wants in plain lower case."""
    return {
        "$schema": DIALECT,
        "title": "Exported event",
        "description": (
            "One event of the log in the JSON format of CloudEvents 1.0, as `bahi archive export` writes it. Ordered "
            "by `position` within `source`, without a gap; the history of one strategy is ordered by `version`. An "
            "entry that cannot be read is of type `bahi.corrupt`, without data."
        ),
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1, "description": "the event id; unique within the source"},
            "source": {
                "type": "string",
                "format": "uri-reference",
                "minLength": 1,
                "description": "the log and its partition",
            },
            "type": {"enum": [*sorted(types), CORRUPT], "description": "the event's type, as in the catalogue"},
            "time": {
                "type": "string",
                "format": "date-time",
                "description": "when the log recorded it, to the microsecond; never runs backwards",
            },
            "subject": {
                "type": "string",
                "minLength": 1,
                "description": "`strategy/ID` of an event of a strategy, else `user/ID`; absent for the system's own",
            },
            "datacontenttype": {"const": "application/json"},
            "data": {
                "type": "object",
                "description": "the event itself as it was stored, with its `type` and `schema`",
            },
            "position": {
                "type": "string",
                "pattern": "^([0-9]+-)?[1-9][0-9]*$",
                "description": "its place in the total order; `partition-position` where there are several partitions",
            },
            "version": {
                "type": "integer",
                "minimum": 0,
                "maximum": _LARGEST,
                "description": "its place in the history of its strategy; 0 if it has none",
            },
            "stream": {"type": "string", "minLength": 1, "description": "the class, and so the stream, of the event"},
            "recordedat": {
                "type": "string",
                "pattern": "^-?(0|[1-9][0-9]*)$",
                "description": "when the log recorded it, in microseconds since 1970: `time`, exactly",
            },
            "envelope": {
                "type": "string",
                "contentEncoding": "base64",
                "description": "the event's exact bytes in the log, which are what its seal covers",
            },
            "strategyid": {**_DIGITS, "description": "absent if it is of no strategy"},
            "userid": {**_DIGITS, "description": "absent if it is of no user"},
            "correlationid": {
                "type": "string",
                "minLength": 1,
                "description": "the id of the event that everything of one cause goes back to",
            },
            "causationid": {
                "type": "string",
                "minLength": 1,
                "description": "the id of the event that woke whoever appended this one; absent for a first cause",
            },
            "writer": {"type": "string", "minLength": 1, "description": "the process that appended it"},
        },
        "required": ["specversion", "id", "source", "type", "position", "version", "stream", "recordedat", "envelope"],
        "additionalProperties": False,
        "oneOf": [
            *(
                {
                    "properties": {"type": {"const": name}, "data": {"$ref": f"events/{name}.json"}},
                    "required": _OF_AN_EVENT,
                }
                for name in sorted(types)
            ),
            {"properties": {"type": {"const": CORRUPT}, "data": False, "datacontenttype": False}},
        ],
    }
