"""The cache's laws: what is read is what was computed, once a row, whatever rows it is asked among."""

import pytest
import torch

from draft_models.errors import CheckpointError
from draft_models.feature_cache import FeatureCache
from tests.draft_models import tiny


@pytest.fixture(scope="module")
def target():
    return tiny.target()


class Counting:
    """A target that counts the rows it computes."""

    def __init__(self, target):
        self.target, self.rows = target, []
        self.taps, self.embed_VD, self.digest = target.taps, target.embed_VD, target.digest

    def features_of(self, rows):
        self.rows += rows
        return self.target.features_of(rows)


def test_cached_features_are_the_computed_ones(target, tmp_path):
    rows = tiny.rows(5)
    cache = FeatureCache(target, rows, tmp_path)
    ids, computed = target.features_of([rows[0], rows[3]])
    for _ in range(2):  # computed, then read
        cached_ids, cached = cache([0, 3])
        assert torch.equal(cached_ids, ids)
        for row, index in enumerate((0, 3)):
            length = len(rows[index])
            for name, tensor in vars(computed).items():
                assert torch.equal(getattr(cached, name)[row, :length], tensor[row, :length]), name
                assert not getattr(cached, name)[row, length:].any()
                assert getattr(cached, name).dtype == tensor.dtype


def test_data_that_has_grown_costs_only_its_new_rows(target, tmp_path):
    rows = tiny.rows(6)
    FeatureCache(target, rows[2:5], tmp_path)([0, 1, 2])
    counting = Counting(target)
    FeatureCache(counting, rows, tmp_path)([1, 2, 3, 4, 5])
    assert counting.rows == [rows[1], rows[5]]


def test_targets_and_taps_do_not_share_features(target, tmp_path):
    rows = tiny.rows(1)
    FeatureCache(target, rows, tmp_path)([0])
    for other in (Counting(target), Counting(target), Counting(target)):
        other.digest = "another"
        FeatureCache(other, rows, tmp_path)([0])
    assert other.rows == []
    other.taps = (0, 1, 2)
    FeatureCache(other, rows, tmp_path)([0])
    assert other.rows == rows


def test_a_broken_file_is_computed_again(target, tmp_path):
    rows = tiny.rows(2)
    cache = FeatureCache(target, rows, tmp_path)
    _, first = cache([0, 1])
    cache.paths[0].write_bytes(b"half")
    cache.paths[1].write_bytes(b"")
    _, again = cache([0, 1])
    assert torch.equal(first.final_BTD, again.final_BTD)


def test_a_full_disk_is_said(target, tmp_path):
    cache = FeatureCache(target, tiny.rows(1), tmp_path)
    cache.paths[0].parent.parent.mkdir()
    cache.paths[0].parent.write_text("no directory")
    with pytest.raises(CheckpointError, match="make room"):
        cache([0])
