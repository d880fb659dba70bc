"""Reading a recording, and the walk over it."""

import json

import pytest

from draft_models.record import Recorded
from draft_models.tree import TreeShape
from loadtest.errors import TuneError
from loadtest.tree import Tree
from loadtest.tuning.recording import Recording
from tests.loadtest.tuning import made


def read(path):
    return Recording.read(path)


def test_a_cycle_begins_behind_the_drafts_that_the_one_before_accepted(tmp_path):
    recording = read(made.write(tmp_path / "r", made.answer([[2, 3], [], [], [2, 5, 7], [], [], []])))
    ((one,),) = recording.tasks.values()
    assert (one.acceptance(Tree(3, 2, 8)).correct_drafts, one.acceptance(Tree(3, 2, 8)).verify_passes) == (5, 2)
    assert one.acceptance(Tree(3, 2, 5)).correct_drafts == 4  # the third draft of position 3 needs 7 tokens
    assert one.acceptance(Tree(1, 1, 2)).correct_drafts == 2


def test_an_answers_last_token_is_never_a_draft(tmp_path):
    recording = read(made.write(tmp_path / "r", made.answer([[2], [2]])))
    ((one,),) = recording.tasks.values()
    assert (one.acceptance(Tree(1, 1, 2)).correct_drafts, one.acceptance(Tree(1, 1, 2)).verify_passes) == (1, 1)


def test_both_sides_of_the_file_count_alike(tmp_path):
    """draft_models writes it, loadtest reads it, and neither imports the other."""
    recording = read(made.growing(tmp_path / "r"))
    for line in (tmp_path / "r").read_text().splitlines()[1:]:
        fields = json.loads(line)
        needed = {tuple(map(int, growth.split("/"))): paths for growth, paths in fields["needed"].items()}
        ours = Recorded(fields["task"], 9, fields["answer_tokens"], needed)
        assert ours.line() == fields
        (theirs,) = [one for one in recording.tasks[fields["task"]] if one.needed == fields["needed"]][:1]
        for tree in ("1/1/2", "4/1/5", "3/4/8", "6/4/32"):
            counted, read_back = ours.acceptance(TreeShape.parse(tree)), theirs.acceptance(Tree.parse(tree))
            assert (counted.correct_drafts, counted.verify_passes) == (
                read_back.correct_drafts,
                read_back.verify_passes,
            )


def test_more_steps_branches_or_tokens_never_lower_tau_here(tmp_path):
    recording, weights = read(made.growing(tmp_path / "r")), {"math": 1.0}
    for small, large in (("3/1/4", "4/1/5"), ("3/2/8", "3/4/8"), ("3/4/8", "3/4/16")):
        assert recording.tau(Tree.parse(small), weights) <= recording.tau(Tree.parse(large), weights)


def test_a_traffics_tau_is_its_tokens_over_its_passes(tmp_path):
    answers = made.answer([[2]] * 9, "math"), made.answer([[]] * 9, "code")  # tau 1.8 and 1
    recording = read(made.write(tmp_path / "r", *answers))
    tree = Tree(1, 1, 2)
    assert recording.tau(tree, {"math": 1.0}) == pytest.approx(1.8)
    assert recording.tau(tree, {"math": 0.5, "code": 0.5}) == pytest.approx(2 / (1 / 1.8 + 1))
    assert recording.tau(tree, {"math": 0.5, "code": 0.5}, {"math": [0, 0], "code": [0]}) == recording.tau(
        tree, {"math": 0.5, "code": 0.5}
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "line 1: not of an acceptance recording"),
        (["{}"], "line 1: .*format"),
        ([json.dumps(made.head())], "no answer in it"),
        ([json.dumps(made.head()), "not JSON"], "line 2"),
        ([json.dumps(made.head()), json.dumps(made.answer([[2]]) | {"answer_tokens": 9})], "1/1 has 1 positions"),
        ([json.dumps(made.head(widest="3/2"))], "no answer in it"),
        ([json.dumps(made.head(widest="3/2")), json.dumps(made.answer([[2]]))], "is not a tree"),
    ],
)
def test_a_broken_recording_is_refused_with_the_line(tmp_path, lines, reason):
    path = tmp_path / "record.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(TuneError, match=reason):
        read(path)


def test_a_recording_that_is_not_there_says_what_writes_one(tmp_path):
    with pytest.raises(TuneError, match="aerie-draft record"):
        read(tmp_path / "none")
