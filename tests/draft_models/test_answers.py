"""What is in the file of answers is whole, and belongs to one run."""

import json
import resource

import pytest

from draft_models.answers import AnswerFile, require_own
from draft_models.errors import CheckpointError, ConfigError, DataError

IDENTITY = {"target": "tiny", "temperature": 0.7, "prompts_sha256": ["a"]}


def row(key):
    return {"prompt_id": key, "ids": [1, 2, 3]}


@pytest.fixture
def path(tmp_path):
    """A file of two rows."""
    path = tmp_path / "new" / "answers.jsonl"
    with AnswerFile(path, IDENTITY) as file:
        file.append(row("a"))
        file.append(row("b"))
    return path


def test_a_file_is_gone_on_with_and_says_where_it_is_from(path):
    with AnswerFile(path, IDENTITY) as file:
        assert file.answered == {"a", "b"}
        file.append(row("c"))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row("a"), row("b"), row("c")]
    meta = json.loads(path.with_name("answers.jsonl.meta.json").read_text())
    assert meta["identity"] == IDENTITY
    assert {"argv", "versions", "commit"} <= set(meta["provenance"])


@pytest.mark.parametrize("torn", ['{"prompt_id": "c", "i', "x" * 200_000])
def test_a_torn_last_line_is_cut(path, torn):
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    with AnswerFile(path, IDENTITY) as file:
        assert file.answered == {"a", "b"}
    assert path.read_bytes() == whole


def test_a_file_that_never_got_a_whole_row_begins_anew(path):
    path.write_text('{"prompt_id": "a"')
    with AnswerFile(path, IDENTITY) as file:
        assert file.answered == set()
    assert path.read_bytes() == b""


def test_answers_of_another_run_are_not_touched(path):
    before = path.read_bytes(), path.with_name("answers.jsonl.meta.json").read_bytes()
    path.write_bytes(before[0] + b"torn")
    with pytest.raises(ConfigError, match=r"another run \(temperature was 0\.7, is 0\.5\); another --out starts anew"):
        AnswerFile(path, {**IDENTITY, "temperature": 0.5})
    assert (path.read_bytes()[:-4], path.with_name("answers.jsonl.meta.json").read_bytes()) == before


@pytest.mark.parametrize("meta", [None, "{", "[]", "{}", '{"identity": "mine"}', '{"identity": ["mine"]}', "\x00"])
def test_a_file_that_nothing_is_known_of_is_not_touched(path, meta):
    place, before = path.with_name("answers.jsonl.meta.json"), path.read_bytes()
    place.unlink()
    if meta:
        place.write_text(meta)
    with pytest.raises(ConfigError, match=r"answers\.jsonl\.meta\.json does not say whose it is; bring that file back"):
        AnswerFile(path, IDENTITY)
    assert path.read_bytes() == before


def test_what_was_given_up_is_remembered(path):
    with AnswerFile(path, IDENTITY) as file:
        assert file.given_up == set()
        file.give_up("c")
        file.give_up("d")
    with AnswerFile(path, IDENTITY) as file:
        assert file.given_up == {"c", "d"}
        assert file.answered == {"a", "b"}
    assert json.loads(path.with_name("answers.jsonl.meta.json").read_text())["identity"] == IDENTITY


def test_answers_are_trained_on_by_their_own_target_under_its_own_template_only(path, tmp_path):
    require_own(tmp_path / "of-unknown-origin.jsonl", "tiny", "hash")
    with AnswerFile(tmp_path / "own.jsonl", {"target": "tiny", "chat_template_sha256": "hash"}):
        pass
    require_own(tmp_path / "own.jsonl", "tiny", "hash")
    with pytest.raises(ConfigError, match="another chat template"):
        require_own(tmp_path / "own.jsonl", "tiny", "another hash")
    with pytest.raises(ConfigError, match="another target's answers"):
        require_own(tmp_path / "own.jsonl", "tiny, and larger", "hash")


def test_a_broken_line_inside_is_named(path):
    path.write_text("{\n" + path.read_text())
    with pytest.raises(DataError, match=r"answers\.jsonl:1: not JSON"):
        AnswerFile(path, IDENTITY)


def test_two_writers_at_once_are_refused(path):
    with AnswerFile(path, IDENTITY), pytest.raises(ConfigError, match="another process is writing it"):
        AnswerFile(path, IDENTITY)


def test_a_full_disk_leaves_whole_rows(path):
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerFile(path, IDENTITY) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))  # ten bytes of the row still fit
        try:
            with pytest.raises(CheckpointError, match=r"could not be written .*; its 2 rows are whole"):
                file.append(row("c"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == whole
        file.append(row("c"))
    assert len(path.read_text().splitlines()) == 3


def test_a_place_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Not a directory|File exists"):
        AnswerFile(tmp_path / "file" / "answers.jsonl", IDENTITY)
