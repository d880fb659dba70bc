"""Laws for every supported kind of target: the draft's rope is its own, training judges what decoding computes, greedy
output is plain decoding's. Kinds that are not supported are refused by name."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from draft_models.config import DraftConfig, TrainConfig, require_supported
from draft_models.decode import DraftSession, TargetSession, decode, decode_plain
from draft_models.errors import ConfigError
from draft_models.objective import Objective
from draft_models.target import Target, padded
from draft_models.tree import TreeShape
from draft_models.unroll import Layout
from tests.draft_models import tiny

RECIPE = TrainConfig(num_steps=3, position_survival=1.0, compute_dtype="float32")
EVERY = [
    *((kind, "default") for kind in tiny.KINDS),
    *((kind, rope) for kind in ("llama", "qwen3") for rope in tiny.ROPES if rope != "default"),
]


@pytest.fixture(scope="module", params=EVERY, ids="-".join)
def models(request):
    kind, rope = request.param
    target = tiny.target(kind=kind, rope=rope)
    return target, tiny.draft(target)


def test_the_drafts_rope_is_the_targets_own_whatever_it_is_cast_to(models):
    target, draft = models
    position = torch.arange(tiny.CONTEXT)
    expected = target.model.model.rotary_emb(torch.zeros(1), position[None])
    for rope in (draft.rope, tiny.draft(target).to(torch.bfloat16).rope):
        for table, own in zip(rope(position, torch.float32), expected, strict=True):
            torch.testing.assert_close(table, own[0], rtol=0, atol=0)


def test_greedy_output_is_that_of_plain_decoding_which_is_that_of_reading_it_at_once(models):
    target, draft = models
    prompt = [5, 17, 3, 40, 22]
    plain = decode_plain(target, prompt, 20, set()).ids
    likeliest = target.features(torch.tensor([[*prompt, *plain]])).likeliest_BT[0].tolist()
    assert plain == likeliest[len(prompt) - 1 : -1]
    for shape in ("4/1/5", "3/4/8"):
        assert decode(target, draft, prompt, 20, set(), TreeShape.parse(shape)).ids == plain


@torch.no_grad()
def test_training_judges_what_decoding_computes(models):
    """The loss of a batch, from caches: of the target's distributions, and of the draft decoding 1, 2, 3 steps deep."""
    target, draft = models
    rows = tiny.rows(2)
    ids = padded([row.ids for row in rows])
    layout = Layout.of([len(row) for row in rows], [row.response_start for row in rows], RECIPE.num_steps)
    loss = Objective(draft, target, RECIPE)(ids, target.features(ids), layout).loss
    by_decoding = sum(decoded_loss(target, draft, row) for row in rows) / len(layout.row_R)
    torch.testing.assert_close(loss, by_decoding, rtol=1e-4, atol=1e-5)


def decoded_loss(target, draft, row):
    """Sum over the response's tokens and over steps of decay ** step * cross-entropy."""
    ids, total = list(row.ids), torch.zeros(())
    final, taps = TargetSession(target).extend(ids)
    logits = target.logits(final)
    for start in range(len(ids) - 2):  # a cycle that begins when tokens 0..start + 1 are verified
        session = DraftSession(draft, target.embed_VD)
        hidden = session.extend(ids[1 : start + 2], draft.fuse(taps[: start + 1]))[-1:]
        for step in range(RECIPE.num_steps):
            place = start + 2 + step  # of the token that is predicted
            if place >= len(ids):
                break
            if place >= row.response_start and draft.t2d[logits[place - 1].argmax()]:
                reference = logits[place - 1][draft.t2d].softmax(-1)
                total += RECIPE.position_decay**step * cross_entropy(draft.logits(hidden)[0], reference)
            hidden = session.extend([ids[place]], hidden)
    return total


ROPE = {"rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "longrope"}}, "rope_type 'longrope'"),
        (
            "llama",
            {"rope_parameters": {**ROPE, "rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial rotary",
        ),
        ("qwen2", {"rope_parameters": {**ROPE, "rope_type": "default", "mrope_section": [1, 1, 2]}}, "multimodal rope"),
        ("qwen3", {"rope_parameters": {"full_attention": {**ROPE, "rope_type": "default"}}}, "by layer type"),
        ("mistral", {"sliding_window": 64}, "sliding_window 64 is shorter than its context of 256"),
        ("qwen2", {"sliding_window": 64}, "sliding_window 64"),
        ("llama", {"model_type": "gemma"}, "model_type 'gemma' is not supported; supported: llama"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(kind, changes, reason):
    config = tiny.config(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ConfigError, match=reason):
        require_supported(config)
    with pytest.raises(ConfigError, match=reason):
        DraftConfig.from_target(config, tiny.DRAFT_VOCAB, tiny.TAPS)


def test_an_unsupported_target_is_refused_before_it_is_loaded(tmp_path):
    tiny.config("mistral", sliding_window=64).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="sliding_window 64"):
        Target.load(tmp_path, tiny.TAPS)
