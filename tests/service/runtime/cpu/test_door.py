"""Token ids outside the vocabulary never reach the scheduler."""

from types import SimpleNamespace

import pytest

from service.runtime.cpu import door

MANAGER = SimpleNamespace(model_config=SimpleNamespace(vocab_size=100))


@pytest.mark.parametrize("bad", [-1, 100, 10**9])
def test_a_token_id_outside_the_vocabulary_is_a_value_error(bad):
    with pytest.raises(ValueError, match=f"input_ids holds token id {bad}"):
        door.check_token_ids(MANAGER, SimpleNamespace(), [0, 99, bad])
    with pytest.raises(ValueError, match=f"token_ids_logprob holds token id {bad}"):
        door.check_token_ids(MANAGER, SimpleNamespace(token_ids_logprob=[5, bad]), [0])


@pytest.mark.parametrize("token_ids", [None, [], [0, 99]])
def test_everything_else_passes(token_ids):
    door.check_token_ids(MANAGER, SimpleNamespace(token_ids_logprob=None), token_ids)
