"""A key file is a key ring or one clear error, a header a known key or Unauthorized; no text shows a key or a hash."""

import hashlib
import re
from datetime import date

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.gateway import keyfile
from service.gateway.errors import Forbidden, Unauthorized
from service.gateway.keys import ANONYMOUS, KeyRing, StoredKey, mint
from service.gateway.strict_yaml import FileError

LAW = settings(deadline=None)
TODAY = date(2026, 6, 15)
ALICE, BOB = "aerie-alice", "aerie-bob"


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


HASHES = {key: sha256(key) for key in (ALICE, BOB)}


def entry(key=ALICE, key_id="alice", **fields):
    return {"id": key_id, "sha256": sha256(key), **fields}


def parse(*entries):
    return keyfile.parse(yaml.safe_dump({"keys": list(entries)}).encode(), lambda: TODAY)


def refusal(data):
    with pytest.raises(FileError) as caught:
        keyfile.parse(data if isinstance(data, bytes) else yaml.safe_dump(data).encode())
    return str(caught.value)


RING = parse(entry(), entry(BOB, "bob"))

# Keys


def test_a_header_with_a_known_key_names_it():
    assert RING.authenticate(f"Bearer {ALICE}").id == "alice"
    assert RING.authenticate(f"bearer  {BOB}").id == "bob"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "No API key provided"),
        ("", "No API key provided"),
        (ALICE, "malformed"),
        ("Bearer", "malformed"),
        ("Basic YWxpY2U6", "malformed"),
        (f"Bearer {ALICE} {BOB}", "malformed"),
        (f"Bearer {ALICE}\n", "malformed"),
        ("Bearer \u212a", "malformed"),  # the Kelvin sign is a k, if case is ignored beyond ASCII
        (f"Bearer {'a' * 257}", "malformed"),
        (f"Bearer {ALICE.upper()}", "Incorrect"),
        (f"Bearer {HASHES[ALICE]}", "Incorrect"),
    ],
)
def test_any_other_header_is_a_401_that_says_why_and_names_the_scheme(header, message):
    with pytest.raises(Unauthorized, match=message) as caught:
        RING.authenticate(header)
    assert caught.value.status == 401
    assert caught.value.headers == {"www-authenticate": "Bearer"}
    assert b'"type":"invalid_request_error","param":null,"code":"invalid_api_key"' in caught.value.body


@LAW
@given(st.one_of(st.text(), st.text().map("Bearer ".__add__), st.binary().map(lambda data: data.decode("latin-1"))))
@example("Bearer \ud800")
def test_no_header_raises_anything_but_unauthorized(header):
    with pytest.raises(Unauthorized):
        RING.authenticate(header)


def test_every_entry_is_compared_whether_or_not_one_matched(monkeypatch):
    compared = []
    monkeypatch.setattr("service.gateway.keys.hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
    RING.authenticate(f"Bearer {ALICE}")
    assert len(compared) == 2


def test_a_key_works_to_the_end_of_its_last_day():
    ring = KeyRing([StoredKey(**entry(expires=TODAY))], lambda: TODAY)
    assert ring.authenticate(f"Bearer {ALICE}").expires == TODAY
    ring = KeyRing([StoredKey(**entry(expires=TODAY))], lambda: date(2026, 6, 16))
    with pytest.raises(Unauthorized, match="expired on 2026-06-15"):
        ring.authenticate(f"Bearer {ALICE}")


def test_without_todays_date_the_calendar_is_asked():
    ring = keyfile.parse(yaml.safe_dump({"keys": [entry(expires=date(2020, 1, 1))]}).encode())
    with pytest.raises(Unauthorized, match="expired"):
        ring.authenticate(f"Bearer {ALICE}")


def test_a_list_of_models_allows_these_and_no_list_allows_all():
    key = parse(entry(models=["small", "large"])).keys[0]
    key.check_model("large")
    with pytest.raises(Forbidden, match="'other'") as caught:
        key.check_model("other")
    assert (caught.value.status, caught.value.param) == (403, "model")
    ANONYMOUS.check_model("any")


def test_no_representation_of_a_key_shows_its_hash():
    assert HASHES[ALICE] not in f"{RING.keys[0]!r} {RING.keys[0]} {RING!r}"


# Minting


@LAW
@given(st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True))
@example("on")
@example("007")
@example("2026-01-01")
@example("1_000")
@example("null")
def test_a_minted_entry_pasted_into_a_file_lets_its_key_in(key_id):
    key, pasted = mint(key_id)
    assert re.fullmatch(r"aerie-[A-Za-z0-9_-]{43}", key)
    assert key not in pasted
    ring = keyfile.parse(f"keys:\n{pasted}{mint('another' + key_id[:50]).entry}".encode())
    assert ring.authenticate(f"Bearer {key}").id == key_id


def test_no_two_minted_keys_are_the_same():
    assert mint("a").key != mint("a").key


@pytest.mark.parametrize("key_id", ["", "A", "a b", "a" * 65, 'a"', "a\n"])
def test_an_id_that_is_none_mints_nothing(key_id):
    with pytest.raises(ValidationError):
        mint(key_id)


# The file


def test_every_field_of_an_entry_is_read():
    text = f"""
    keys:
      - id: alice
        sha256: "{HASHES[ALICE].upper()}"
        models: [small]
        speculation: off
        priority: high
        class: internal
        expires: 2026-12-31
        limits: &usual {{requests_per_s: 2.5, tokens_per_min: 1000, concurrent: 3}}
      - {{id: bob, sha256: "{HASHES[BOB]}", speculation: on, limits: {{<<: *usual, concurrent: 4, burst: 9}}}}
    """
    alice, bob = keyfile.parse(text.encode()).keys
    assert (alice.models, alice.speculation, alice.priority) == (("small",), "off", "high")
    assert (alice.tenant_class, alice.expires, alice.sha256) == ("internal", date(2026, 12, 31), HASHES[ALICE])
    assert alice.limits.requests_at_once == 3
    assert (bob.speculation, bob.limits.concurrent, bob.limits.requests_at_once) == ("on", 4, 9)
    assert (bob.limits.tokens_per_min, bob.tenant_class) == (1000, "default")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (b"# none yet\n", "the file is empty"),
        (b"keys: []", "keys: must not be empty"),
        (b"{}", "keys: is missing"),
        (b"- id: alice", "the file must be a mapping"),
        (b"\xff\xfe", "the file is not UTF-8 text"),
        (
            b"keys:\n  - id: a: b\n",
            "the file is not valid YAML: line 2, column 10: mapping values are not allowed here",
        ),
        (b"keys: [{id: a, id: b}]", "the file is not valid YAML: line 1, column 16: the field is given twice"),
        (b"keys: [{expires: 2026-13-01}]", "the file is not valid YAML"),
        (b"keys: !!bool perhaps", "the file is not valid YAML"),
        (b"keys: !!timestamp soon", "the file is not valid YAML"),
        (b"keys: *aerie-alice", "the file is not valid YAML: line 1, column 7: found undefined alias ..."),
        (b"[" * 500, "the file is not valid YAML"),
        (b"keys: &a [*a]", "keys[0]: must be a mapping"),
        ({"keys": [entry(), 3]}, "keys[1]: must be a mapping"),
        ({"keys": [{"id": "alice"}]}, "keys[0].sha256: is missing"),
        ({"keys": [entry(key_id="Alice")]}, "keys[0].id: string should match pattern '^[a-z0-9_-]{1,64}$'"),
        ({"keys": [entry(key_id=True)]}, "keys[0].id: input should be a valid string"),
        ({"keys": [entry(modles=["a"])]}, "keys[0].modles: unknown field"),
        ({"keys": [entry(**{ALICE: 1})]}, "keys[0].?: unknown field"),
        ({"keys": [entry(models=[])]}, "keys[0].models: must not be empty"),
        ({"keys": [entry(priority="urgent")]}, "keys[0].priority: input should be 'low', 'normal' or 'high'"),
        ({"keys": [entry(speculation="maybe")]}, "keys[0].speculation: input should be 'on', 'off' or 'auto'"),
        ({"keys": [entry(expires="soon")]}, "keys[0].expires: input should be a valid date"),
        ({"keys": [entry(limits={"burst": 3})]}, "keys[0].limits: burst limits nothing without requests_per_s"),
        (
            {"keys": [entry(limits={"requests_per_s": 0})]},
            "keys[0].limits.requests_per_s: input should be greater than or equal to 0.001",
        ),
        (
            {"keys": [entry(limits={"tokens_per_min": 1.5})]},
            "keys[0].limits.tokens_per_min: input should be a valid integer",
        ),
        ({"keys": [entry(), entry(BOB)]}, "keys[1].id: the same as keys[0].id"),
        ({"keys": [entry(), entry(key_id="bob")]}, "keys[1].sha256: the same as keys[0].sha256"),
        (
            {"keys": [entry(str(n), f"k{n}", **{"class": f"c{n}"}) for n in range(17)]},
            "keys: 17 different classes, at most 16 may be used",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(data, sentence):
    assert refusal(data) == sentence


@pytest.mark.parametrize("value", ["", "x" * 64, "a" * 63, ALICE, int("1" * 64), None])
def test_what_is_no_hash_is_told_what_belongs_there_and_not_repeated(value):
    sentence = refusal({"keys": [entry() | {"sha256": value}]})
    expected = "must be the key's SHA-256 in quotes, 64 hexadecimal digits, and never the key itself"
    assert sentence == f"keys[0].sha256: {expected}"


def test_of_many_mistakes_the_first_are_told_and_the_rest_counted():
    sentence = refusal({"keys": [{"id": f"k{n}"} for n in range(9)]})
    assert sentence.endswith("keys[4].sha256: is missing; and 4 more")


SECRET = st.sampled_from([ALICE, BOB, *HASHES.values()])
FIELD = st.sampled_from(["id", "sha256", "limits", "models", "expires", "class", "priority", "burst", "x"])
TREE = st.recursive(
    st.one_of(SECRET, st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.text(max_size=5)),
    lambda tree: st.one_of(st.lists(tree, max_size=4), st.dictionaries(st.one_of(FIELD, SECRET), tree, max_size=4)),
    max_leaves=12,
)
ENTRY = st.dictionaries(st.one_of(FIELD, SECRET), TREE, max_size=5)
YAML = ["keys:", "\n", "  ", "- ", "id: ", "sha256: ", "{", "[", "]", ", ", "&a ", "*a", "<<: ", "'", '"', "|", "? "]
TAGS = ["!!bool ", "!!int ", "!!timestamp ", "!!set ", "!", "\t", "\0", "\ufeff"]
LINES = st.lists(st.sampled_from([*YAML, *TAGS, ALICE]), max_size=25)
FILES = st.one_of(
    st.binary(),
    LINES.map("".join).map(str.encode),
    TREE.map(lambda tree: yaml.safe_dump(tree).encode()),
    st.lists(ENTRY, max_size=3).map(lambda entries: yaml.safe_dump({"keys": entries}).encode()),
    st.lists(ENTRY, max_size=2).map(
        lambda extra: yaml.safe_dump({"keys": [entry(), *map(entry_with, extra)]}).encode()
    ),
)


def entry_with(extra):
    return entry(BOB, "bob") | {str(name): value for name, value in extra.items()}


@LAW
@given(FILES)
def test_any_bytes_are_a_key_ring_or_one_line_that_shows_no_key_and_no_hash(data):
    try:
        ring = keyfile.parse(data)
    except FileError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        for secret in (*HASHES, *HASHES.values()):
            assert secret not in text
    else:
        assert ring.keys
