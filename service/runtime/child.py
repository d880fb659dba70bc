"""A supervised child process: its own session, its output to a file and a memory of the last lines, a sure end.

Owns one process and all that it starts. Knows nothing of SGLang or the gateway.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
KEPT_LINES = 40
LINE_BYTES = 65536


class ChildError(Exception):
    """A child ended by itself; the message holds its last lines."""


def _die_with_parent() -> None:
    """In the child, before exec: the kernel ends it when its parent is gone, however the parent went (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One command, running."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path | None, echo: Callable[[str], None]
    ) -> None:
        self.name = name
        self.log = log
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._command, self._env, self._echo = command, env, echo
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the command in a session of its own, so that the terminal's Ctrl-C reaches only the supervisor."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, **self._env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self._reader = asyncio.create_task(self._read())

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running.pid

    async def _read(self) -> None:
        stream = self._running.stdout
        assert stream is not None
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") if self.log else contextlib.nullcontext() as file:
            async for line in _lines(stream):
                if file is not None:
                    file.write(line + b"\n")
                    file.flush()
                text = line.decode(errors="replace").rstrip()
                self.last_lines.append(text)
                self._echo(f"{self.name} | {text}")

    async def ended(self) -> int:
        """Wait for the process to end by itself; its exit status, negative for a signal."""
        status = await self._running.wait()
        await self._read_to_the_end()
        return status

    async def _read_to_the_end(self) -> None:
        if self._reader is not None:  # bounded: a grandchild may hold the pipe open
            await asyncio.wait({self._reader}, timeout=2)

    def failure(self, status: int) -> ChildError:
        """What to raise when the process ended though nobody asked it to."""
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        return ChildError(f"the {self.name} ended ({how}); {self.memory()}")

    def memory(self) -> str:
        """The last lines of its output, and where all of it is."""
        where = f" (all of it: {self.log})" if self.log else ""
        return f"its last lines{where}:\n" + "\n".join(f"  {self.name} | {line}" for line in self.last_lines)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, wait up to grace_s, then SIGKILL to it and everything it started."""
        if self._process is None:
            return
        family = _family(self._process.pid)
        if self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), timeout=grace_s)
        self.kill(family)
        await self._process.wait()
        await self._read_to_the_end()

    def kill(self, family: Sequence[psutil.Process] | None = None) -> None:
        """SIGKILL to the process and everything it started, at once."""
        if self._process is None:
            return
        for process in family or _family(self._process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil checks that the pid was not reused
                process.kill()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Its lines without their ends; one longer than LINE_BYTES comes in pieces, and nothing is lost.

    `StreamReader.readline` drops what it has buffered when a line exceeds its limit.
    """
    rest = b""
    while chunk := await stream.read(LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) >= LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _family(pid: int) -> list[psutil.Process]:
    """A process and its descendants, as they are now."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
