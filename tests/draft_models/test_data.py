"""Rows are read strictly, held out by prompt, and batched reproducibly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draft_models.data import Row, batches, digest, hold_out, read_records, read_rows
from draft_models.errors import DataError

GOOD = {"prompt_id": "a", "temperature": 0.0, "response_start": 2, "ids": [1, 2, 3, 4]}


def write(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_rows_are_read_as_they_are(tmp_path):
    assert read_rows([write(tmp_path, GOOD, "", GOOD)], 10, 100) == [Row((1, 2, 3, 4), 2, 0.0, "a")] * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "a line is a JSON object, not list"),
        ({**GOOD, "ids": "text"}, "ids is no list"),
        ({**GOOD, "ids": [1, 2, 3, 10]}, "outside the target's vocabulary of 10"),
        ({**GOOD, "response_start": 4}, r"response_start 4 is not within 1\.\.3"),
        ({**GOOD, "ids": [1] * 101}, "101 tokens are longer than the target's context of 100"),
        ({**GOOD, "temperature": "hot"}, "temperature 'hot' is no number"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, reason):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{reason}"):
        read_rows([write(tmp_path, GOOD, line)], 10, 100)


def test_an_empty_or_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="the file is empty"):
        read_rows([write(tmp_path, "")], 10, 100)
    with pytest.raises(DataError, match="No such file"):
        read_rows([tmp_path / "nowhere.jsonl"], 10, 100)


def test_a_line_is_read_when_it_is_asked_for_and_ends_at_a_line_feed_only(tmp_path):
    path = write(tmp_path, {"a": 1}, '{"b": "x\u2028y\x85z"}\r', "broken")
    records = read_records(path)
    assert next(records) == (1, {"a": 1})
    assert next(records) == (2, {"b": "x\u2028y\x85z"})
    with pytest.raises(DataError, match=r"rows\.jsonl:3: not JSON"):
        next(records)
    path.write_bytes(b'{"a": 1}\n\xff\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: 'utf-8' codec can't decode"):
        list(read_records(path))


def test_held_out_prompts_are_greedy_not_trained_on_and_chosen_whatever_else_there_is():
    rows = [Row((1, 2, 3), 1, float(index % 2), f"p{index // 2}") for index in range(40)]
    kept, held = hold_out(rows, 5)
    assert len(held) == 5
    assert all(row.temperature == 0 for row in held)
    assert not {row.key for row in kept} & {row.key for row in held}
    assert hold_out(rows[::-1], 5)[1] == held


@given(st.lists(st.integers(1, 50), min_size=1, max_size=600), st.integers(16, 200), st.integers(0, 3))
def test_every_row_is_in_one_batch_and_batches_fit(lengths, batch_tokens, epoch):
    plan = batches(lengths, batch_tokens, seed=0, epoch=epoch)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens for batch in plan)
    assert plan == batches(lengths, batch_tokens, seed=0, epoch=epoch)


def test_epochs_and_seeds_shuffle_differently():
    plans = [batches([5] * 100, 20, seed, epoch) for seed in (1, 12) for epoch in (3, 23)]
    assert all(one != other for place, one in enumerate(plans) for other in plans[:place])


def test_the_digest_sees_every_id():
    one, other = Row((1, 2, 3), 1, 0.0, "a"), Row((1, 2, 4), 1, 0.0, "a")
    assert digest([one]) == digest([one]) != digest([other])
