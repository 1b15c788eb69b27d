"""`api.audit.ports.Verifier` and `Export` by processes of their own (`bahi.audit_process`)."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import structlog

from api.audit.ports import ExportWish, NoExport, NoVerdict, Verdict
from domain.clock import Clock
from domain.values import MINUTE, Duration, Instant

__all__ = ["ProcessExport", "ProcessVerifier"]

FRESH: Final[Duration] = MINUTE
"""A verdict so young is given again."""
PATIENCE: Final = 5.0
"""Seconds that somebody who asks waits for a verdict before being told that it is being made."""
AT_ONCE: Final = 2
"""Exports that run together."""
CHUNK: Final = 64 * 1024
LONGEST_ERROR: Final = 2000
PREFIX: Final = "bahi: "
"""Of a line that is meant to be read."""
OK, CHECK_FAILED = 0, 1

_log = structlog.get_logger(__name__)


class _Child:
    """A process that runs. `errors` is what it said on standard error, as far as it has ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 (it was asked for)
        self.process = process
        self.stdout = process.stdout
        self._errors = asyncio.create_task(self._listen())

    async def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said for people; the log has all of it."""
        code = await self.process.wait()
        said = (await self._errors).decode(errors="replace").strip()
        if code != OK and said:
            _log.warning("audit_process_said", code=code, said=said)
        last = said.splitlines()[-1] if said else ""
        return code, last.removeprefix(PREFIX) if last.startswith(PREFIX) else f"it failed with {code}"

    async def _listen(self) -> bytes:
        assert self.process.stderr is not None  # noqa: S101 (it was asked for)
        tail = b""
        while some := await self.process.stderr.read(CHUNK):
            tail = (tail + some)[-LONGEST_ERROR:]
        return tail

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._errors


@asynccontextmanager
async def _child(environment: Mapping[str, str], *arguments: str) -> AsyncGenerator[_Child, None]:
    """A process of this program, killed when the block ends, if it has not ended by itself."""
    child = _Child(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bahi.audit_process", *arguments),
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield child
    finally:
        await asyncio.shield(child.kill())


class ProcessVerifier:
    """One verification at a time, however many ask. `environment` (`BAHI_…`) says where everything is."""

    def __init__(self, environment: Mapping[str, str], clock: Clock) -> None:
        self._environment = environment
        self._clock = clock
        self._running: asyncio.Task[None] | None = None
        self._began_at: Instant = 0
        self._last: tuple[Instant, Instant, Mapping[str, Any] | str] | None = None
        """When the last one began and ended, and its verdict, or why there is none."""

    async def aclose(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def verdict(self) -> Verdict:
        if self._running is None or self._running.done():
            if self._last is not None and self._clock.now() - self._last[1] < FRESH:
                return self._told(self._last)
            self._began_at = self._clock.now()
            self._running = asyncio.create_task(self._verify(), name="verify")
        running = self._running
        await asyncio.wait({running}, timeout=PATIENCE)
        if running.done() and not running.cancelled() and self._last is not None:
            running.result()
            return self._told(self._last)
        before = self._last[2] if self._last is not None and not isinstance(self._last[2], str) else None
        return Verdict(running=True, began_at=self._began_at, ended_at=0, verdict=before)

    def _told(self, last: tuple[Instant, Instant, Mapping[str, Any] | str]) -> Verdict:
        began_at, ended_at, verdict = last
        if isinstance(verdict, str):
            self._last = None  # whoever asks next may have mended it
            raise NoVerdict(verdict)
        return Verdict(running=False, began_at=began_at, ended_at=ended_at, verdict=verdict)

    async def _verify(self) -> None:
        began_at = self._clock.now()
        async with _child(self._environment, "verify") as child:
            answer = await child.stdout.read()
            code, said = await child.ended()
        verdict: Mapping[str, Any] | str = said
        if code in (OK, CHECK_FAILED):
            try:
                verdict = msgspec.json.decode(answer, type=dict[str, Any])
            except msgspec.MsgspecError:
                verdict = f"the verification said nothing that can be read ({said})"
        if isinstance(verdict, str):
            _log.error("no_verdict", why=verdict, code=code)
        self._last = (began_at, self._clock.now(), verdict)


class ProcessExport:
    """Some exports at a time. `environment` (`BAHI_…`) says where everything is."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._running = 0

    async def stream(self, wish: ExportWish) -> AsyncGenerator[bytes, None]:
        if self._running >= AT_ONCE:
            raise NoExport(f"{AT_ONCE} exports are running, which is as many as there may be", busy=True)
        self._running += 1
        try:
            async with _child(self._environment, "export", _as_argument(wish)) as child:
                told = False
                while some := await child.stdout.read(CHUNK):
                    told = True
                    yield some
                code, said = await child.ended()
                if code != OK:
                    _log.error("export_failed", why=said, code=code, broke_off=told)
                    raise NoExport(said)
        finally:
            self._running -= 1


def _as_argument(wish: ExportWish) -> str:
    given = {name: value for name, value in msgspec.structs.asdict(wish).items() if value}
    return msgspec.json.encode(given).decode()
