"""Training's laws: resumed is uninterrupted, it learns, and what it keeps is what it measured."""

import json

import pytest
import torch

from draft_models.acceptance import Acceptance
from draft_models.checkpoint import load_draft
from draft_models.config import TrainConfig
from draft_models.data import Row
from draft_models.decode import decode, decode_plain
from draft_models.errors import CheckpointError, ConfigError
from draft_models.target import padded
from draft_models.trainer import Data, Trainer, learning_rate
from draft_models.tree import TreeShape
from tests.draft_models import tiny

CONFIG = TrainConfig(
    num_steps=3,
    batch_tokens=64,
    epochs=2,
    warmup_batches=2,
    compute_dtype="float32",
    validate_every=4,
    checkpoint_every=5,
)


@pytest.fixture(scope="module")
def target():
    return tiny.target()


def trainer(target, directory, config=CONFIG, rows=None, held_out=2):
    rows = rows or tiny.rows(14)
    ids = [row.ids for row in rows]

    def features(indices):
        chosen = padded([ids[index] for index in indices])
        return chosen, target.features(chosen)

    made = Trainer(tiny.draft(target), target, config, Data(rows, held_out, features), directory, {"data": "tiny"})
    made.initialise()
    return made


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(target, tmp_path):
    whole = trainer(target, tmp_path / "whole")
    whole.run()
    first = trainer(target, tmp_path / "resumed")
    first.run(until=7)  # the last state is that of batch 5: batches 6 and 7 are lost and trained again
    second = trainer(target, tmp_path / "resumed")
    second.resume()
    assert second.run_state.batch == 5
    second.run()
    assert whole.run_state == second.run_state
    for name, tensor in whole.draft.state_dict().items():
        assert torch.equal(tensor, second.draft.state_dict()[name]), name
    untimed = [
        [{k: v for k, v in json.loads(line).items() if k not in ("tokens_per_s", "eta_s")} for line in log]
        for log in ((tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "resumed"))
    ]
    assert untimed[0] == untimed[1]


def test_a_run_with_another_configuration_cannot_be_resumed(target, tmp_path):
    trainer(target, tmp_path).save()
    other = CONFIG.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.001, is 0\.5; name another --out"):
        trainer(target, tmp_path, other).resume()
    with pytest.raises(ConfigError, match="rows was"):
        trainer(target, tmp_path, rows=tiny.rows(14, seed=1)).resume()


def test_a_missing_or_broken_state_is_one_clear_error(target, tmp_path):
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        trainer(target, tmp_path).resume()
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        trainer(target, tmp_path).resume()


def test_a_full_disk_keeps_the_last_state(target, tmp_path, monkeypatch):
    run = trainer(target, tmp_path)
    run.save()
    before = (tmp_path / "state.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run.save()
    assert (tmp_path / "state.pt").read_bytes() == before


def test_training_learns_what_the_target_writes_and_the_chain_measures_what_decoding_accepts(target, tmp_path):
    """On the target's own greedy answers loss falls, and the cheap chain gives decoding's very counts."""
    answers = []
    for seed in range(16):
        prompt = torch.randint(2, tiny.VOCAB, (4,), generator=torch.Generator().manual_seed(seed)).tolist()
        ids = [*prompt, *decode_plain(target, prompt, 20, set()).ids]
        answers.append(Row(tuple(ids), 4, 0.0, str(seed)))
    config = CONFIG.model_copy(update={"epochs": 25, "learning_rate": 3e-3, "validate_every": 1000})
    run = trainer(target, tmp_path, config, answers)
    losses = [run.step()[0] for _ in run.plan]
    assert sum(losses[-8:]) < 0.85 * sum(losses[:8])
    for index in range(len(answers) - 2, len(answers)):
        row = answers[index]
        shape = TreeShape.chain(config.num_steps)
        decoded = decode(target, run.draft, list(row.ids[:4]), 20, set(), shape)
        assert decoded.ids == list(row.ids[4:])
        measured, _ = run.measure([index], config.num_steps)
        assert measured.correct_drafts + measured.verify_passes == 19
        assert measured == Acceptance.of(decoded.correct_drafts)


def test_the_best_draft_by_measured_tau_is_kept_with_its_provenance(target, tmp_path):
    run = trainer(target, tmp_path)
    run.run()
    best = json.loads((tmp_path / "draft" / "config.json").read_text())["aerie"]
    measured = [
        line
        for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
        if line["event"] == "validation"
    ]
    assert best["held_out_tau"] == max(line["tau"] for line in measured) == run.run_state.best_tau
    assert best["data"] == "tiny"
    load_draft(tmp_path / "draft", 4)


def test_no_gradient_reaches_the_target(target, tmp_path):
    run = trainer(target, tmp_path)
    run.step()
    assert all(parameter.grad is None for parameter in target.model.parameters())


def test_the_learning_rate_warms_up_and_falls_to_its_floor():
    config = TrainConfig(warmup_batches=10)
    rates = [learning_rate(batch, 1000, config) for batch in range(1000)]
    assert rates[0] < rates[5] < rates[10]
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[-1] == pytest.approx(0.05e-3, rel=0.01)


def test_holding_everything_out_is_an_error(target, tmp_path):
    with pytest.raises(ConfigError, match="no greedy answers are held out"):
        trainer(target, tmp_path, held_out=0)
    with pytest.raises(ConfigError, match="nothing is left to train on"):
        trainer(target, tmp_path, held_out=14)


def test_a_run_stops_when_tau_has_not_improved_and_goes_no_further_when_resumed(target, tmp_path, monkeypatch):
    config = CONFIG.model_copy(update={"validate_every": 1, "patience": 2})
    run = trainer(target, tmp_path, config)
    monkeypatch.setattr(Trainer, "measure_held_out", lambda *_: (Acceptance.of([1, 1]), 1.0))
    run.run()
    assert run.run_state.batch == 3  # the first is the best, two are no better
    again = trainer(target, tmp_path, config)
    again.resume()
    again.run()
    assert again.run_state.batch == 3


def test_the_kept_draft_is_the_one_that_was_measured(target, tmp_path):
    run = trainer(target, tmp_path)
    run.run(until=CONFIG.validate_every)
    kept = load_draft(tmp_path / "draft", 4)
    run.draft.load_state_dict(kept.state_dict())  # rounded to bf16
    assert run.measure_held_out(CONFIG.num_steps)[0].tau == pytest.approx(run.run_state.best_tau, abs=0.1)


def test_a_run_begun_anew_does_not_continue_a_log_it_has_no_state_of(target, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event": "progress", "batch": 1}\n{"event": "prog')
    trainer(target, tmp_path).run(until=1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
