"""Start SGLang as a supervised child and wait until it is ready.

Owns the child's environment, its start-up budget and what "ready" means. The flags are `RuntimeConfig`'s.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from service.runtime import adaptive
from service.runtime.cache import cache_dir
from service.runtime.child import Child, ChildError
from service.runtime.config import RuntimeConfig
from service.runtime.cpu import build

PROGRESS_EVERY_S = 5
PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 5


def runtime(
    config: RuntimeConfig, say: Callable[[str], None], echo: Callable[[str], None], *, keep_log: bool = True
) -> Child:
    """The runtime's child process, not started yet; on CPU its kernels are compiled first.

    Args:
        config: what to start.
        say: told what is done before that.
        echo: told every line of its output.
        keep_log: write them to a file too, which grows for as long as it runs.

    Raises:
        build.BuildError: no compiler, or it failed.
        OSError: there is no place for temporary files.
    """
    if config.speculation.adaptive is not None:
        adaptive.write(config.speculation.adaptive)
    log = cache_dir() / "logs" / f"runtime-{config.port}.log" if keep_log else None
    return Child("runtime", config.command(), environment(config, say), log, echo)


def environment(config: RuntimeConfig, say: Callable[[str], None]) -> dict[str, str]:
    """What the child's environment has beside ours."""
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]  # our ninja: SGLang compiles NGRAM
    env = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "PATH": os.pathsep.join(path)}
    if config.is_local:
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if config.device == "cpu":
        env["AERIE_CPU_OPS"] = cpu_ops(say)
        env["AERIE_DRAFT_P_MIN"] = json.dumps(config.speculation.draft_p_min or {})  # for cpu/cycle.py
    return env


def cpu_ops(say: Callable[[str], None]) -> str:
    """Which CPU kernels the child loads: AERIE_CPU_OPS (a path, or `torch`), else the library compiled here."""
    named = os.environ.get("AERIE_CPU_OPS")
    if named is None:
        say("checking the CPU kernels (compiled once, about a minute)")
        named = str(build.build())
    elif named == "torch":
        say("AERIE_CPU_OPS=torch: serving with PyTorch's operators, which are slower than the compiled ones")
    return named


async def until_ready(child: Child, url: str, budget_s: float, progress: Callable[[float], None]) -> None:
    """Wait until a child answers 200 at a URL, calling progress with the seconds passed now and then.

    Raises:
        ChildError: it ended, or was not ready within the budget.
    """
    started = shown = time.monotonic()
    ended = asyncio.ensure_future(child.ended())
    try:
        while not await _answers(url):
            await asyncio.wait({ended}, timeout=PROBE_EVERY_S)
            now = time.monotonic()
            if ended.done():
                raise child.failure(ended.result())
            if now - started > budget_s:
                raise ChildError(f"the {child.name} was not ready within {budget_s:.0f} s; {child.memory()}")
            if now - shown >= PROGRESS_EVERY_S:
                shown = now
                progress(now - started)
    finally:
        ended.cancel()


async def _answers(url: str) -> bool:
    """With status 200; only the status line is read."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(f"GET {parts.path} HTTP/1.0\r\n\r\n".encode())
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
    except OSError:  # TimeoutError is one
        return False
