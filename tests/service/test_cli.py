"""The `aerie` command line, as far as nothing is started."""

import pytest

from service import cli
from service.gateway import keyfile


@pytest.fixture
def settings(monkeypatch):
    """What `aerie gateway` would serve with."""
    served = []
    monkeypatch.setattr(cli, "serve", served.append)
    return served


def test_the_gateway_takes_its_address_from_the_environment_and_the_command_line_before_it(settings, monkeypatch):
    monkeypatch.setenv("AERIE_PORT", "9999")
    monkeypatch.setenv("AERIE_HOST", "127.0.0.2")
    assert cli.main(["gateway"]) == 0
    assert cli.main(["gateway", "--port", "9998"]) == 0
    assert [(one.host, one.port) for one in settings] == [("127.0.0.2", 9999), ("127.0.0.2", 9998)]


def test_the_gateway_takes_several_upstreams_or_a_file(settings, capsys):
    assert cli.main(["gateway", "--upstream", "http://a:1", "--upstream", "dns+http://b:2"]) == 0
    assert settings[0].upstream == ("http://a:1", "dns+http://b:2")
    assert cli.main(["gateway", "--upstream", "http://a:1", "--config", "pools.yaml"]) == 1
    assert "keep one of them" in capsys.readouterr().err


def test_a_new_key_is_shown_once_and_its_entry_is_one_a_key_file_takes(capsys):
    assert cli.main(["key", "--id", "alice"]) == 0
    shown = capsys.readouterr()
    key = shown.err.split()[-1]
    ring = keyfile.parse(f"keys:\n{shown.out}".encode())
    assert ring.authenticate(f"Bearer {key}").id == "alice"
    assert key not in shown.out
    assert cli.main(["key", "--id", "Alice!"]) == 1
