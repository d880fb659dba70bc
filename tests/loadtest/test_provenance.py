"""Where a curve comes from, without the machine's paths."""

from pathlib import Path

import pytest

from loadtest import provenance
from loadtest.errors import EndpointError


def test_a_command_line_keeps_no_path_of_the_machine():
    inside = str(Path.cwd() / "out" / "curve.json")
    argv = ["/opt/bin/aerie-bench", "calibrate", "--output", inside, "--prompts=/home/me/p.jsonl", "http://h:1"]
    kept = provenance.arguments(argv)
    assert kept == ("aerie-bench", "calibrate", "--output", "out/curve.json", "--prompts=.../p.jsonl", "http://h:1")
    assert provenance.without_paths("speculation --draft /home/me/draft") == "speculation --draft .../draft"


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("http://10.0.0.1:1", False),
        ("http://gpu.example.com", False),
    ],
)
def test_hardware_is_told_of_this_machine_only(url, here):
    assert provenance.is_loopback(url) is here
    if here:
        assert provenance.hardware(url, "cpu").endswith(" cores")
    else:
        with pytest.raises(EndpointError, match="say it with --hardware"):
            provenance.hardware(url, "cpu")


def test_versions_are_of_what_measured():
    assert set(provenance.versions()) == {"python", "aerie", "httpx"}
