"""The AsyncAPI 3.0 document: the streams of the log as channels, and the events that each of them carries."""

import inspect
from importlib.metadata import version
from typing import Final

from bahi.schema.event import Schema, Types, event_schema, streams_of
from domain.values import Priority
from eventstore.keys import GROUP, MARKET_TICKS, Keys

__all__ = ["asyncapi_document"]

_CLASSES: Final = {
    Priority.CRITICAL: "What must be looked at before anything else: stops, aborts, halts, forced stops.",
    Priority.HIGH: "Triggers, order intents and what the broker made of them.",
    Priority.MEDIUM: "What users ask for, and the life of their strategies.",
    Priority.LOW: "What happens around trading: feeds, start-up, parked entries, alerts.",
}


def asyncapi_document(types: Types) -> Schema:
    """Channels, operations and messages; the payloads are the files beside it."""
    streams = dict.fromkeys([*(Keys().streams[each] for each in Priority), MARKET_TICKS])
    carried = {name: streams_of(cls) for name, cls in sorted(types.items())}
    channels = {_id(stream): _channel(stream, [n for n, of in carried.items() if stream in of]) for stream in streams}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "bahi: the log of a trading engine",
            "version": version("bahi"),
            "description": inspect.cleandoc(
                f"""
                Every fact is an event, appended to the Redis stream of its class. The id of an entry is
                `POSITION-0`: positions are gapless over the four class streams together, so merging the streams by id
                gives the one total order. An entry has the fields `v` (the version of its strategy), `t` (when it was
                recorded, in microseconds) and `e`: a MessagePack array `[format, event_id, strategy_id, user_id,
                correlation_id, causation_id, writer, event]`. The payload of a message here is that last element.
                As JSON, with the attributes of CloudEvents, it is `envelope.json`. Workers read as the group
                `{GROUP}`; whoever follows the log reads without one. Of several partitions each has its own four
                streams, named with the hash tag `{{PARTITION}}:`.
                """
            ),
        },
        "defaultContentType": "application/msgpack",
        "servers": {
            "log": {
                "host": "localhost:6379",
                "protocol": "redis",
                "description": "Redis 6.2 or newer that forgets nothing it acknowledged; the address is a setting",
            }
        },
        "channels": channels,
        "operations": {name: each for channel in channels for name, each in _operations(channel, channels).items()},
        "components": {"messages": {name: _message(name, types) for name in carried}},
    }


def _id(stream: str) -> str:
    """`events:critical` → `eventsCritical`."""
    first, second = stream.split(":")
    return first + second.capitalize()


def _channel(stream: str, names: list[str]) -> Schema:
    if stream == MARKET_TICKS:
        title = "Market data"
        text = "Prices as they come. Capped, with ids of its own, not history: an event that a tick causes carries it."
    else:
        each = Priority(stream.rpartition(":")[2])
        title = f"Events of class {each}"
        text = _CLASSES[each]
    return {
        "address": stream,
        "title": title,
        "description": text,
        "servers": [{"$ref": "#/servers/log"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _operations(channel: str, channels: Schema) -> Schema:
    """bahi's own view: it sends to every channel, and receives what it sent."""
    after = channel[0].upper() + channel[1:]
    ticks = channels[channel]["address"] == MARKET_TICKS
    said = {
        f"append{after}": (
            "send",
            "Publish the prices of a feed" if ticks else "Append events, atomically, where the state allows it",
        ),
        f"receive{after}": (
            "receive",
            "Follow the prices" if ticks else "Be woken as one of the group, or follow the log in its total order",
        ),
    }
    return {
        name: {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": summary,
            "messages": [{"$ref": f"#/channels/{channel}/messages/{each}"} for each in channels[channel]["messages"]],
        }
        for name, (action, summary) in said.items()
    }


def _message(name: str, types: Types) -> Schema:
    schema = event_schema(types[name])
    message = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "contentType": "application/msgpack",
        "payload": {"$ref": f"events/{name}.json"},
        "tags": [{"name": schema["x-class"]}],
    }
    return message | ({"description": schema["description"]} if "description" in schema else {})
