"""The reduced vocabulary's laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from draft_models import vocab
from draft_models.errors import ConfigError

masks = st.lists(st.booleans(), min_size=2, max_size=80).filter(any).map(torch.tensor)


@given(masks)
def test_d2t_after_t2d_is_the_identity(t2d):
    d2t, draft_ids = vocab.offsets(t2d), vocab.draft_ids(t2d)
    for token in t2d.nonzero().flatten().tolist():
        draft_id = int(draft_ids[token])
        assert draft_id + int(d2t[draft_id]) == token
    assert (draft_ids[~t2d] == -1).all()


@given(masks)
def test_target_ids_rise_with_draft_ids(t2d):
    d2t = vocab.offsets(t2d)
    ids = torch.arange(len(d2t)) + d2t
    assert ids.tolist() == t2d.nonzero().flatten().tolist()


def test_the_most_frequent_tokens_are_kept_and_ties_go_to_lower_ids():
    assert vocab.most_frequent(torch.tensor([0, 5, 1, 5, 1, 0]), 3).nonzero().flatten().tolist() == [1, 2, 3]


def test_coverage_is_the_share_of_written_tokens():
    count = torch.tensor([1, 6, 0, 3])
    assert vocab.coverage(count, vocab.most_frequent(count, 2)) == pytest.approx(0.9)


def test_a_draft_vocabulary_larger_than_the_targets_is_an_error():
    with pytest.raises(ConfigError, match="draft_vocab_size 7 exceeds"):
        vocab.most_frequent(torch.zeros(6), 7)
