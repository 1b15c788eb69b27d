"""Log lines: one JSON object each on stdout, with secrets taken out on the way."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import msgspec
import structlog

__all__ = ["REDACTED", "Stdout", "configure_logging", "is_plain", "is_secret", "redact", "register_secret"]

REDACTED = "[redacted]"

#: Keys whose value is a secret, compared without case, `-` and `_`.
SECRET_KEYS = frozenset(
    {"password", "passwd", "passphrase", "pin", "totp", "secret", "secretkey", "secretkeys", "clientsecret"}
    | {"apikey", "apisecret", "xkiteapikey", "privatekey", "credentials"}
    | {"token", "accesstoken", "refreshtoken", "requesttoken", "enctoken", "authorization", "proxyauthorization"}
    | {"cookie", "setcookie", "databaseurl", "redisurl", "alertwebhook"}
)
#: Secrets inside text: Kite's `token key:token` and HTTP's `Bearer …`, and passwords in addresses.
IN_TEXT = re.compile(r"(?i)\b(bearer\s+|token\s+(?=\S+:))\S+|(?<=://)([^/\s:@]*):[^/\s@]+(?=@)")
#: What a text must hold, in small letters, for `IN_TEXT` to find anything in it.
HINTS = (b"bearer", b"token", b"://")
SHORTEST_SECRET = 4

_secrets: set[str] = set()
_known: re.Pattern[str] | None = None
_in_json: tuple[bytes, ...] = ()


def register_secret(value: str) -> None:
    """From now on this value is masked wherever it appears in a log line, whatever the key.

    Values shorter than 4 characters are refused with a ValueError: masking them would garble every line.
    """
    global _known, _in_json  # noqa: PLW0603  one registry per process, as there is one stdout
    if len(value) < SHORTEST_SECRET:
        raise ValueError(f"a secret of {len(value)} characters cannot be masked")
    if value not in _secrets:
        _secrets.add(value)
        # Longest first: a secret that contains another is masked whole.
        _known = re.compile("|".join(re.escape(secret) for secret in sorted(_secrets, key=len, reverse=True)))
        _in_json = tuple(msgspec.json.encode(secret)[1:-1] for secret in _secrets if secret.isascii())


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor: secrets by key, by known value and by shape, at any depth."""
    return {_mask(key): REDACTED if is_secret(key) else _clean(value) for key, value in event.items()}


def is_plain(line: bytes) -> bool:
    """Whether `redact` would leave all text of this JSON as it is: nothing in it is a known secret or looks like one.
    Keys are not looked at. In doubt it says no."""
    if not line.isascii():
        return False
    small = line.lower()
    return not any(hint in small for hint in HINTS) and not any(secret in line for secret in _in_json)


class Stdout(logging.StreamHandler[TextIO]):
    """Where the lines go."""

    _bahi = True

    def write(self, lines: str) -> None:
        """Whole lines, as they are."""
        self.acquire()
        try:
            self.stream.write(lines)
            self.flush()
        except Exception:
            # as `emit` does it: a line that cannot be written stops nobody
            self.handleError(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "lines", None, None))
        finally:
            self.release()


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's records as JSON lines to stdout (or `stream`).

    Every line has `timestamp` (ISO 8601, UTC), `level`, `logger` where known, and `event`. May be called again.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = Stdout(stream if stream is not None else sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.PositionalArgumentsFormatter(),
                *shared,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("event"),
                structlog.processors.JSONRenderer(default=_text),
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, Stdout):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # a line that cannot be written would be told on stderr, with what is masked in it
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        # uvicorn brings handlers of its own, which would print the lines a second time, unredacted.
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True


def is_secret(key: object) -> bool:
    """Whether what has this name is one."""
    return isinstance(key, str) and key.lower().replace("_", "").replace("-", "") in SECRET_KEYS


def _clean(value: Any) -> Any:
    match value:
        case str():
            return _mask(value)
        case bytes():
            return _mask(value.decode(errors="replace"))
        case Mapping():
            return {_mask(key): REDACTED if is_secret(key) else _clean(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(inner) for inner in value]
        case None | bool() | int() | float():
            return value
        case _:
            return _mask(_text(value))


def _mask(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    if _known is not None:
        text = _known.sub(REDACTED, text)
    return IN_TEXT.sub(lambda found: f"{found[1] or (found[2] or '') + ':'}{REDACTED}", text)


def _text(value: object) -> str:
    return str(value)
