"""Supervised children: their output is kept, their end is noticed, and nothing of them outlives the supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from service.runtime.child import Child, ChildError
from service.runtime.launch import until_ready

PARENT_WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""


def child(script: str, log: Path | None = None) -> Child:
    return Child("thing", [sys.executable, "-c", script], {}, log, lambda _: None)


async def line_of(running: Child, start: str) -> str:
    for _ in range(500):
        for line in running.last_lines:
            if line.startswith(start):
                return line
        await asyncio.sleep(0.02)
    raise AssertionError(f"no line {start!r} in {running.last_lines}")


def gone(pid: int) -> bool:
    for _ in range(250):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_crash_is_reported_with_the_last_lines_and_the_exit_status(tmp_path: Path) -> None:
    async def run() -> ChildError:
        running = child("print('one'); print('two'); raise SystemExit(3)", tmp_path / "logs" / "thing.log")
        await running.start()
        return running.failure(await running.ended())

    message = str(asyncio.run(run()))
    assert "exit status 3" in message
    assert "thing | one\n  thing | two" in message
    assert (tmp_path / "logs" / "thing.log").read_text() == "one\ntwo\n"


def test_waiting_for_readiness_ends_at_once_when_the_child_crashes() -> None:
    async def run() -> None:
        running = child("print('no memory'); raise SystemExit(1)")
        await running.start()
        await until_ready(running, "http://127.0.0.1:9/ready", 600, lambda _: None)

    with pytest.raises(ChildError, match="no memory"):
        asyncio.run(run())


def test_a_child_that_never_gets_ready_exceeds_its_budget() -> None:
    async def run() -> None:
        running = child("import time; time.sleep(600)")
        await running.start()
        try:
            await until_ready(running, "http://127.0.0.1:9/ready", 0.5, lambda _: None)
        finally:
            await running.stop(5)

    with pytest.raises(ChildError, match="not ready within 0 s"):
        asyncio.run(run())


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 300_000])
def test_a_line_longer_than_the_pipes_buffer_is_read_whole_in_pieces(length: int) -> None:
    async def run() -> list[str]:
        running = child(f"print('x' * {length}); print('end')")
        await running.start()
        await running.ended()
        return list(running.last_lines)

    *pieces, end = asyncio.run(run())
    assert end == "end"
    assert "".join(pieces) == "x" * length


def test_stopping_ends_the_child_and_what_it_started() -> None:
    async def run() -> list[int]:
        running = child(PARENT_WITH_CHILD)
        await running.start()
        grandchild = int((await line_of(running, "child")).split()[1])
        await running.stop(5)
        return [running.pid, grandchild]

    assert all(gone(pid) for pid in asyncio.run(run()))


def test_a_child_that_ignores_the_polite_signal_is_killed_after_the_grace() -> None:
    async def run() -> int:
        running = child(
            "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
        )
        await running.start()
        await line_of(running, "deaf")
        await running.stop(0.2)
        return await running.ended()

    assert asyncio.run(run()) == -signal.SIGKILL


def test_a_child_does_not_outlive_a_supervisor_that_was_killed() -> None:
    script = (
        "import asyncio, sys\nfrom service.runtime.child import Child\n"
        "async def main():\n"
        "    c = Child('x', [sys.executable, '-c', 'import time; time.sleep(600)'], {}, None, print)\n"
        "    await c.start(); print(c.pid, flush=True); await c.ended()\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        os.kill(supervisor.pid, signal.SIGKILL)
        assert gone(pid)
