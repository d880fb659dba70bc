"""Endpoints: those that a URL names, and servers that are started for a measurement and ended after it.

    http://127.0.0.1:30000                               one that runs already
    speculation                                          `aerie runtime`: the profile's draft and tree
    speculation --num-steps 2 --eagle-topk 1 ...         the same with further options of `aerie runtime`
    baseline                                             `aerie runtime --no-speculation`

Owns these words and the process. Refuses to own what a runtime's options mean: `aerie runtime` is a command, not an
import.
"""

import asyncio
import ctypes
import os
import random
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from loadtest.asking import Say
from loadtest.client import base_url
from loadtest.errors import EndpointError

_WORDS = {"speculation": (), "baseline": ("--no-speculation",)}
_POLL_S = 0.2
_STOP_S = 60
_LOG_LINES = 3
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Endpoint:
    """What is to be measured: a URL, or the options of a runtime to start."""

    text: str
    options: tuple[str, ...] | None
    """Of `aerie runtime`; None: the text is a URL."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a word of the command line.

        Raises:
            EndpointError: neither a URL nor a runtime to start.
        """
        try:
            word, *options = shlex.split(text) or [""]
        except ValueError as error:
            raise EndpointError(f"{text}: {error}") from error
        if word in _WORDS:
            return cls(text, (*_WORDS[word], *options))
        if options or "://" not in word:
            raise EndpointError(
                f"{text}: write a URL, or {' or '.join(_WORDS)}, with options of `aerie runtime` after it"
            )
        return cls(base_url(word), None)


@asynccontextmanager
async def started(endpoint: Endpoint, profile: str | None, say: Say) -> AsyncIterator[str]:
    """Its URL; a runtime that was started here, with this profile or its own default, is ended afterwards.

    Raises:
        EndpointError: the runtime cannot be started, or never gets ready (it bounds that itself, by its profile).
    """
    if endpoint.options is None:
        yield endpoint.text
        return
    port = free_port()
    command = [program(), "runtime", "--runtime-port", str(port), *profile_options(profile), *endpoint.options]
    async with serving(endpoint.text, command, f"http://127.0.0.1:{port}/ready", say):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serving(name: str, command: Sequence[str], ready_url: str, say: Say, **environ: str) -> AsyncIterator[None]:
    """A server of one's own, from when it answers under `ready_url`; ended afterwards. `environ` is added to ours.

    Raises:
        EndpointError: it ends before it is ready.
    """
    words = Path(command[0]).name
    with tempfile.NamedTemporaryFile(prefix="aerie-bench-", suffix=".log") as log:
        say(f"starting {words} {shlex.join(command[1:])}")
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | environ,
            start_new_session=True,  # a Ctrl-C is this process's, which then ends the server
            preexec_fn=_die_with_parent,
        )
        try:
            if not await _ready(process, ready_url):
                ended = f"{words} ended with status {process.returncode}"
                raise EndpointError(f"{name}: {ended}: {_end_of(Path(log.name))}")
            yield
        finally:
            await _end(process)


def profile_options(profile: str | None) -> Sequence[str]:
    """Of `aerie runtime` and `aerie check`; None: their default."""
    return ("--profile", profile) if profile else ()


def _die_with_parent() -> None:
    """In the child: the kernel ends it if this process is killed (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _ready(process: asyncio.subprocess.Process, url: str) -> bool:
    """Waits; whether it got ready before it ended."""
    async with httpx.AsyncClient(trust_env=False) as client:
        while process.returncode is None:
            with suppress(httpx.TransportError):  # it does not listen yet
                if (await client.get(url)).is_success:
                    return True
            await asyncio.sleep(_POLL_S)
    return False


def _end_of(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:])


async def _end(process: asyncio.subprocess.Process) -> None:
    """By its own way of ending, which takes SGLang with it; killed if that takes too long."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def program() -> str:
    """The `aerie` command beside this one, else the one on PATH."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which("aerie", path=beside)
    if found is None:
        raise EndpointError("no `aerie` command here to start a runtime with: give URLs of runtimes that run")
    return found


def free_port() -> int:
    """Below those that Linux and SGLang (22000 to 29999) take for themselves: a runtime binds it a minute later."""
    for port in random.sample(range(10_000, 22_000), 100):
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise EndpointError("no free port found to start a runtime on")
