"""`aerie up`: the runtime and the gateway as two supervised children, from nothing to ready to stopped.

Owns the order of things: check, make ready, start, wait, and stop the gateway (which drains) before the runtime. When
one child ends by itself the other is stopped and the failure shown. Nothing outlives this process: children are killed
by the kernel if it is killed.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import psutil

from service.runtime import launch, model_source, preflight
from service.runtime.child import Child
from service.runtime.config import RuntimeConfig

GATEWAY_BUDGET_S = 30
# The gateway drains for its AERIE_DRAIN_TIMEOUT_S (30 s); when it has ended, the runtime has nothing left to do.
GATEWAY_STOP_GRACE_S = 120


@dataclass(frozen=True)
class Stack:
    """What is to run; without a gateway port, the runtime alone."""

    config: RuntimeConfig
    host: str = "127.0.0.1"
    port: int | None = None
    verbose: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def base_url(self) -> str:
        """The gateway's URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def runtime_url(self) -> str:
        """The runtime's URL."""
        return f"http://{self.config.host}:{self.config.port}"

    def say(self, text: str) -> None:
        """One line of progress with the time since the start."""
        print(f"aerie: [{time.monotonic() - self.started:3.0f} s] {text}", file=sys.stderr, flush=True)

    def echo(self, line: str) -> None:
        """A line of a child's output: the gateway's are shown, the runtime's on request (its log has them)."""
        if self.verbose or line.startswith("gateway"):
            print(line, file=sys.stderr, flush=True)


def prepare(stack: Stack) -> Child:
    """Everything that can fail before a process starts; the runtime's child, not started yet.

    Raises:
        preflight.PreflightError, model_source.ModelError, service.runtime.cpu.build.BuildError: one sentence each.
    """
    with _killing_children_on_sigterm():
        if stack.port is not None:
            preflight.check_port(stack.host, stack.port, "PORT")
        preflight.check(stack.config)
        config = stack.config.model_copy(update={"model": model_source.prepare(stack.config.model, stack.say)})
        # alone, it shows everything: who runs a service keeps what it shows
        return launch.runtime(config, stack.say, stack.echo, keep_log=stack.port is not None)


async def run(stack: Stack, runtime: Child) -> None:
    """Start runtime and gateway, wait until both are ready, say so, and serve until a signal.

    Raises:
        ChildError: a child ended by itself or was not ready in time.
    """
    gateway = Child("gateway", _gateway_command(stack), {}, None, stack.echo)

    async def serve() -> None:
        await gateway.start()
        await _start_runtime(stack, runtime)
        await launch.until_ready(gateway, f"{stack.base_url}/readyz", GATEWAY_BUDGET_S, lambda _: None)
        stack.say(f"ready at {stack.base_url}/v1; try:\n\n{curl(stack)}\n")
        await _first_end(runtime, gateway)

    await _until_signal(stack, serve(), [gateway, runtime])


async def run_runtime(stack: Stack, runtime: Child) -> None:
    """Start the runtime alone and serve until a signal. Raises as `run` does."""

    async def serve() -> None:
        await _start_runtime(stack, runtime)
        stack.say(f"ready at {stack.runtime_url}")
        await _first_end(runtime)

    await _until_signal(stack, serve(), [runtime])


async def _start_runtime(stack: Stack, runtime: Child) -> None:
    config = stack.config
    speculation = (
        f"{config.speculation.algorithm} {config.speculation.tree}" if config.speculation.enabled else "no speculation"
    )
    log = f"; log: {runtime.log}" if runtime.log else ""
    stack.say(f"starting SGLang on {config.device}: {config.served_model_name}, {speculation}{log}")
    await runtime.start()
    await launch.until_ready(
        runtime,
        f"{stack.runtime_url}{config.ready_path}",
        config.startup_budget_s,
        lambda waited: stack.say(f"SGLang is loading ({waited:.0f} s)"),
    )


async def _first_end(*children: Child) -> None:
    """Wait for the first child to end by itself, which is a failure."""
    ends = {asyncio.ensure_future(child.ended()): child for child in children}
    done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    first = done.pop()
    raise ends[first].failure(first.result())


async def _until_signal(stack: Stack, work: Coroutine[Any, Any, None], children: list[Child]) -> None:
    """Run until the work fails or a stop is asked for, then stop the children, the first one first."""
    with _stop_signals(children) as stop:
        waits = [asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
            stack.say("stopping")
            for child in children:
                is_runtime = child.name == "runtime"
                await child.stop(stack.config.drain_timeout_s if is_runtime else GATEWAY_STOP_GRACE_S)
            stack.say("stopped")


def curl(stack: Stack) -> str:
    """A command that works as it stands."""
    body = f'{{"model": "{stack.config.served_model_name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return f"  curl {stack.base_url}/v1/chat/completions -H 'Content-Type: application/json' \\\n    -d '{body}'"


def _gateway_command(stack: Stack) -> list[str]:
    arguments = ["--host", stack.host, "--port", str(stack.port), "--upstream", stack.runtime_url]
    return [sys.executable, "-m", "service.cli", "gateway", *arguments]


@contextlib.contextmanager
def _killing_children_on_sigterm() -> Iterator[None]:
    """While the compiler or the converter runs, SIGTERM means what Ctrl-C in a terminal means: to them as well."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stop_signals(children: list[Child]) -> Iterator[asyncio.Event]:
    """An event set by the first SIGINT or SIGTERM; a second one kills the children where they stand."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            for child in children:
                child.kill()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
