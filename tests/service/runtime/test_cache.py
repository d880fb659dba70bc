"""Things in the cache appear whole or not at all, and once, however many processes make them."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.runtime.cache import cache_dir, making


def test_a_made_directory_appears_under_its_name_and_is_not_made_again(tmp_path: Path) -> None:
    with making(tmp_path / "a" / "thing") as unfinished:
        assert unfinished is not None
        (unfinished / "file").write_text("x")
        assert not (tmp_path / "a" / "thing").exists()
    assert (tmp_path / "a" / "thing" / "file").read_text() == "x"
    with making(tmp_path / "a" / "thing") as again:
        assert again is None
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thing"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with making(tmp_path / "thing") as unfinished:
            assert unfinished is not None
            (unfinished / "half").write_text("x")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_unfinished_is_made_afresh(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from service.runtime.cache import making\n"
        "with making(Path(sys.argv[1])) as place:\n    (place / 'half').write_text('x'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "thing")], check=False)
    assert not (tmp_path / "thing").exists()
    with making(tmp_path / "thing") as unfinished:
        assert unfinished is not None
        assert list(unfinished.iterdir()) == []


def test_processes_that_race_make_it_once(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from service.runtime.cache import making\n"
        "with making(Path(sys.argv[1])) as place:\n    place and (time.sleep(0.3), print('made'))"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "thing")], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [racer.communicate()[0] for racer in racers]
    assert sorted(said) == ["", "", "made\n"]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AERIE_CACHE_DIR", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("AERIE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "aerie"
