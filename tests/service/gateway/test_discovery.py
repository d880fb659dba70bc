"""Where replicas are: every address of a name, the last good answer while there is none, one line in the log."""

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.discovery import Discovery, Target, changes, resolve


class Names:
    """A resolver that answers what a test says; None: it fails."""

    def __init__(self, **addresses):
        self.addresses = addresses

    async def __call__(self, name, port):
        if (found := self.addresses.get(name)) is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found


def look(discovery):
    return asyncio.run(discovery.urls())


def test_urls_are_replicas_as_they_stand():
    targets = ["http://10.0.0.1:30000/", "https://gpu.example", "http://[::1]:8000/sglang", "http://10.0.0.1:30000"]
    expected = {"http://10.0.0.1:30000", "https://gpu.example", "http://[::1]:8000/sglang"}
    assert look(Discovery(targets, resolver=Names())) == expected


def test_every_address_of_a_name_is_a_replica():
    names = Names(runtime=["10.0.0.1", "10.0.0.2", "fd00::1"])
    assert look(Discovery(["dns+http://runtime:30000"], resolver=names)) == {
        "http://10.0.0.1:30000",
        "http://10.0.0.2:30000",
        "http://[fd00::1]:30000",
    }


def test_a_name_is_resolved_again_every_time():
    names = Names(runtime=["10.0.0.1"])
    discovery = Discovery(["dns+http://runtime:1", "http://static:1"], resolver=names)
    assert look(discovery) == {"http://10.0.0.1:1", "http://static:1"}
    names.addresses["runtime"] = ["10.0.0.2"]
    assert look(discovery) == {"http://10.0.0.2:1", "http://static:1"}


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), TimeoutError()], ids=repr)
def test_a_resolver_that_fails_keeps_the_last_answer_and_says_so_once(caplog, error):
    answer = ["10.0.0.1"]

    async def resolver(name, port):
        if not answer:
            raise error
        return answer

    caplog.set_level("INFO", "aerie.discovery")
    discovery = Discovery(["dns+http://runtime:1"], resolver=resolver)
    for episode in (1, 2):
        answer[:] = ["10.0.0.1"]
        assert look(discovery) == {"http://10.0.0.1:1"}
        assert discovery.problems == ()
        answer.clear()
        for _ in range(3):
            assert look(discovery) == {"http://10.0.0.1:1"}
        assert len(discovery.problems) == 1
        assert [record.levelname for record in caplog.records].count("WARNING") == episode
    assert caplog.records[-1].fields["kept"] == 1


def test_a_name_without_an_answer_hides_no_other():
    discovery = Discovery(["dns+http://gone:1", "dns+http://here:1"], resolver=Names(here=["10.0.0.1"]))
    assert look(discovery) == {"http://10.0.0.1:1"}
    assert discovery.problems == ("gone cannot be resolved: Name or service not known",)


def test_the_event_loops_resolver_answers_with_addresses():
    assert asyncio.run(resolve("127.0.0.1", 80)) == {"127.0.0.1"}
    assert asyncio.run(resolve("localhost", 80)) & {"127.0.0.1", "::1"}


NO_TARGETS = """
    runtime:30000 ftp://runtime dns+https://runtime dns+dns+http://runtime http:// http://:1 http://h:port http://h:99999
    http://[::1 http://me:secret@h http://h?x=1 http://h#x dns+http://a..b
"""


@pytest.mark.parametrize("text", ["", *NO_TARGETS.split(), f"dns+http://{'a' * 64}"])
def test_anything_else_is_refused_before_it_is_looked_for(text):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - urllib's own words among them
        Discovery([text])
    assert "secret" not in str(refusal.value)


@given(st.text())
def test_any_text_is_a_target_or_refused(text):
    for prefix in ("", "http://", "dns+http://"):
        try:
            target = Target.parse(prefix + text)
        except ValueError:
            continue
        assert target.at("::1").startswith("http://[::1]:")


@given(st.frozensets(st.integers(0, 9)), st.frozensets(st.integers(0, 9)))
def test_changes_lead_from_before_to_after(before, after):
    added, removed = changes(before, after)
    assert (before | added) - removed == after
    assert not added & before
    assert removed <= before
