"""Settings come from the environment once, are frozen, and know every variable of their prefix."""

import os

import pytest
from pydantic import ValidationError

from service.gateway.settings import FOREIGN_VARIABLES, Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("AERIE_"):
            monkeypatch.delenv(name)


def test_every_field_is_a_variable_with_the_prefix(monkeypatch):
    monkeypatch.setenv("AERIE_DRAIN_TIMEOUT_S", "7.5")
    monkeypatch.setenv("AERIE_UPSTREAM", "http://runtime:30000/")
    settings = Settings()
    assert settings.drain_timeout_s == 7.5
    assert settings.upstream == ("http://runtime:30000/",)


def test_an_unknown_variable_of_our_prefix_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setenv("AERIE_DRAIN_TIMEOUT", "7")
    with pytest.raises(ValidationError, match="AERIE_DRAIN_TIMEOUT;"):
        Settings()


@pytest.mark.parametrize("name", sorted(FOREIGN_VARIABLES))
def test_variables_of_other_parts_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "anything")
    Settings()


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize("url", ["runtime:30000", "ftp://runtime", "http://", ""])
def test_an_upstream_that_is_no_http_url_is_refused(url):
    with pytest.raises(ValidationError, match="upstream"):
        Settings(upstream=url)
