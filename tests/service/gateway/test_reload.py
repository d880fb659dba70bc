"""A value follows its files when all of them are valid, and stays what it was when they are not."""

import asyncio
import logging
import os
from contextlib import suppress

import pytest

from service.gateway.reload import LIMIT_BYTES, InvalidFiles, Reloading, Status


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


# Consecutive contents differ in length: two writes within a tick of the file system's clock have the same time.


def numbers(contents):
    """The sum of the numbers in all files."""
    return sum(int(data) for data in contents.values())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "number"
    path.write_bytes(b"1")
    return path


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def number(file, clock, changes):
    reloading = Reloading([file], numbers, on_change=changes.append, clock_s=clock)
    settle(reloading)
    return reloading


def settle(reloading):
    """Polls enough for a change to be taken."""
    reloading.poll()
    reloading.poll()


def errors(caplog):
    return [record.fields["reason"] for record in caplog.records if record.levelno == logging.ERROR]


def test_the_first_value_is_there_at_once(file, clock):
    number = Reloading([file], numbers, clock_s=clock)
    assert number.value == 1
    assert number.status == Status(generation=1, last_ok_s=100, last_error=None)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"x", "invalid literal"), (None, "No such file"), (b"1" * (LIMIT_BYTES + 1), "larger than")]
)
def test_without_a_first_value_there_is_nothing(file, data, reason):
    file.unlink() if data is None else file.write_bytes(data)
    with pytest.raises(InvalidFiles, match=f"^{file}: .*{reason}"):
        Reloading([file], numbers)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path, make):
    make(tmp_path / "other")
    with pytest.raises(InvalidFiles, match="not a regular file"):
        Reloading([tmp_path / "other"], numbers)


def test_a_change_is_taken_and_told(number, file, clock, changes):
    clock.now_s = 200
    file.write_bytes(b"22")
    settle(number)
    assert number.value == 22
    assert number.status == Status(generation=2, last_ok_s=200, last_error=None)
    assert changes == [22]


def test_a_file_that_still_changes_is_left_alone(number, file):
    for data in (b"2", b"22", b"222"):
        file.write_bytes(data)
        number.poll()
        assert number.value == 1
    number.poll()
    assert number.value == 222


def test_a_broken_file_keeps_the_old_value_and_says_why(number, file, clock, changes):
    clock.now_s = 200
    file.write_bytes(b"2x")
    settle(number)
    assert number.value == 1
    reason = f"{file}: invalid literal for int() with base 10: b'2x'"
    assert number.status == Status(generation=1, last_ok_s=100, last_error=reason)
    assert changes == []


def test_each_broken_content_is_logged_once(number, file, caplog):
    for data in (b"first", b"first", b"second"):
        file.write_bytes(data)
        for _ in range(3):
            settle(number)
            number.reload()
    assert ["first" in reason for reason in errors(caplog)] == [True, False]


def test_a_reason_is_one_line(file, caplog):
    def fail(contents):
        raise ValueError("first\n  second")

    with pytest.raises(InvalidFiles, match=r": first second$"):
        Reloading([file], fail)


def test_a_repaired_file_is_taken_even_if_it_is_what_it_was(number, file):
    for broken in (lambda: file.write_bytes(b"xx"), file.unlink):
        broken()
        settle(number)
        assert number.status.last_error is not None
        file.write_bytes(b"1")
        settle(number)
        assert number.value == 1
        assert number.status.last_error is None


def test_a_missing_file_keeps_the_old_value(number, file, caplog):
    file.unlink()
    settle(number)
    settle(number)
    assert number.value == 1
    assert errors(caplog) == [f"{file}: No such file or directory"]


def test_a_touched_file_is_no_change(number, file, changes):
    os.utime(file, ns=(1, 1))
    settle(number)
    assert number.status.generation == 1
    assert changes == []


def test_a_replaced_file_is_seen_by_its_inode(number, file, tmp_path):
    before = file.stat()
    new = tmp_path / "new"
    new.write_bytes(b"2")
    os.utime(new, ns=(before.st_mtime_ns, before.st_mtime_ns))
    new.rename(file)
    settle(number)
    assert number.value == 2


def test_a_swapped_link_is_followed_as_kubernetes_swaps_it(tmp_path):
    for name, data in (("v1", b"1"), ("v2", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "number").write_bytes(data)
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "number").symlink_to("data/number")
    number = Reloading([tmp_path / "number"], numbers)
    settle(number)
    (tmp_path / "swap").symlink_to("v2")
    (tmp_path / "swap").rename(tmp_path / "data")
    settle(number)
    assert number.value == 2


def test_several_files_make_one_value_and_one_broken_file_keeps_all_of_it(tmp_path):
    left, right = tmp_path / "left", tmp_path / "right"
    left.write_bytes(b"1")
    right.write_bytes(b"10")
    number = Reloading([left, right], numbers)
    settle(number)
    left.write_bytes(b"2")
    right.write_bytes(b"x")
    settle(number)
    assert number.value == 11
    right.write_bytes(b"20")
    settle(number)
    assert number.value == 22


def test_a_reload_on_request_does_not_wait(number, file):
    file.write_bytes(b"2")
    number.reload()
    assert number.value == 2
    settle(number)
    assert number.status.generation == 2


def test_a_value_is_told_before_it_is_seen(file):
    seen = []
    number = Reloading([file], numbers, on_change=lambda value: seen.append((value, number.value)))
    file.write_bytes(b"2")
    number.reload()
    assert seen == [(2, 1)]


def test_the_watch_polls_until_it_is_cancelled_and_outlives_a_bug(file, caplog):
    async def run():
        failed, taken = asyncio.Event(), asyncio.Event()

        def change(value):
            if value == 2:
                failed.set()
                raise KeyError("a bug")
            taken.set()

        number = Reloading([file], numbers, on_change=change, interval_s=0.001)
        watch = asyncio.create_task(number.watch())
        async with asyncio.timeout(20):  # only bounds a failure
            file.write_bytes(b"2")
            await failed.wait()
            file.write_bytes(b"33")
            await taken.wait()
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        return number.value

    assert asyncio.run(run()) == 33
    assert any(record.exc_info for record in caplog.records)
