"""Speculation changes nothing but the speed: against real SGLang, in float32, to the token.

Every law compares a speculative server with the same SGLang without speculation. EVAL_PROMPTS=DIR runs them on other
prompts (JSONL with `turns`) than the bundled ones.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scipy.stats import chi2_contingency

from draft_models.acceptance import Acceptance
from draft_models.checkpoint import load_draft
from draft_models.decode import decode
from draft_models.target import Target, end_of_sequence, generation_config, load_tokenizer, target_config
from draft_models.tree import TreeShape
from service.runtime.cache import cache_dir
from service.runtime.model_source import EMBEDDED
from tests.e2e.servers import ROOT, Server, aerie, chatml, prompts

SINGLE_TOKENS = 8
BATCHED_TOKENS = 16
REFERENCE_TOKENS = 24
AT_ONCE = 13
DRAWS = 128
LOGPROB_ERROR = 1e-4  # SGLang's: after a prompt log(softmax), or log_softmax where all in the batch are greedy
FLOAT32 = ("--dtype", "float32", "--sglang-arg=--random-seed=7")
TEXTS = [chatml(prompt) for prompt in prompts()]
QUESTION = chatml("Pick a colour. Answer with one word.")
DRAFT = ROOT / "draft_models" / "smollm2-135m-instruct-eagle3"
EMBEDDED_DIRECTORY = str(cache_dir() / "models" / EMBEDDED)
SAMPLING: dict[str, dict[str, float]] = {
    "temperature 1": {"temperature": 1.0},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 1, top_k 3, top_p 0.95": {"temperature": 1.0, "top_k": 3, "top_p": 0.95},
    "temperature 0.7, top_p 0.8": {"temperature": 0.7, "top_p": 0.8},
    "temperature 1, top_k 20, min_p 0.05": {"temperature": 1.0, "top_k": 20, "min_p": 0.05},
}
DISTRIBUTIONS = ["temperature 1", "temperature 1, top_k 3, top_p 0.95"]
CHAIN = ("--num-steps", "3", "--eagle-topk", "1", "--num-draft-tokens", "4")
PROFILE = "the profile's tree"
ADAPTIVE = "chains by batch size"
TREES = {
    PROFILE: (),
    ADAPTIVE: ("--profile", str(Path(__file__).parent / "chains.yaml")),  # 3/1/4 for one request, shorter for many
    "tree 3/4/8": ("--num-steps", "3", "--eagle-topk", "4", "--num-draft-tokens", "8"),
    "tree 5/4/16": ("--num-steps", "5", "--eagle-topk", "4", "--num-draft-tokens", "16"),
}


@dataclass(frozen=True)
class Answers:
    """Token ids a server gave: greedily, one at a time and batched; with fixed seeds; and many short draws."""

    single: list[list[int]]
    batched: list[list[int]]
    seeded: dict[str, list[list[int]]]
    draws: dict[str, list[tuple[int, ...]]]


def greedy_single(server: Server) -> list[list[int]]:
    return server.generate_all(TEXTS, at_once=1, max_new_tokens=SINGLE_TOKENS)


def greedy_batched(server: Server, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    return server.generate_all(texts, AT_ONCE, max_new_tokens=BATCHED_TOKENS)


def seeded(server: Server, sampling: dict[str, float]) -> list[list[int]]:
    """Answers to some of the prompts, batched, each with a seed of its own."""
    some = TEXTS[::9]
    with ThreadPoolExecutor(len(some)) as pool:
        answers = pool.map(
            lambda text: server.generate(text, max_new_tokens=BATCHED_TOKENS, sampling_seed=len(text), **sampling), some
        )
        return [answer["output_ids"] for answer in answers]


def draws(server: Server, sampling: dict[str, float], first_seed: int) -> list[tuple[int, ...]]:
    """The first four tokens of many answers to one question, a seed each."""
    answers = []
    for start in range(first_seed, first_seed + DRAWS, 16):
        each = [
            {"max_new_tokens": 4, "ignore_eos": True, "sampling_seed": seed, **sampling}
            for seed in range(start, start + 16)
        ]
        answer = server.client.post(
            f"{server.runtime_url}/generate", json={"text": [QUESTION] * 16, "sampling_params": each}
        )
        answers += [tuple(one["output_ids"]) for one in answer.json()]
    return answers


@pytest.fixture(scope="module")
def plain() -> Answers:
    """What the same SGLang answers without speculation. It has ended when the first speculative server starts."""
    with aerie("runtime", "--no-speculation", *FLOAT32) as server:
        answers = Answers(
            greedy_single(server),
            greedy_batched(server),
            {name: seeded(server, sampling) for name, sampling in SAMPLING.items()},
            {name: draws(server, SAMPLING[name], first_seed=0) for name in DISTRIBUTIONS},
        )
        assert server.metric("sglang:spec_verify_calls_total") == 0
        return answers


@pytest.fixture(scope="module", params=list(TREES))
def tree(request: pytest.FixtureRequest, plain: Answers) -> Iterator[Server]:
    """A server with EAGLE-3 and one of the trees."""
    with aerie("runtime", *TREES[request.param], *FLOAT32) as server:
        yield server


def differing(ours: list[list[int]], theirs: list[list[int]]) -> list[int]:
    return [number for number, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]


def p_value(ours: list[tuple[int, ...]], theirs: list[tuple[int, ...]]) -> float:
    """Chi-square test of homogeneity; categories seen fewer than ten times in all are pooled into one."""
    counts = [Counter(ours), Counter(theirs)]
    common = [key for key in counts[0] | counts[1] if counts[0][key] + counts[1][key] >= 10]
    table = [[*(count[key] for key in common), count.total() - sum(count[key] for key in common)] for count in counts]
    columns = [column for column in zip(*table, strict=True) if sum(column) > 0]
    return 1.0 if len(columns) < 2 else float(chi2_contingency(list(zip(*columns, strict=True))).pvalue)


def test_plain_decoding_does_not_depend_on_the_batch(plain: Answers) -> None:
    """Without this, nothing could be said of a batch under speculation."""
    assert len(TEXTS) >= 24
    assert differing([answer[:SINGLE_TOKENS] for answer in plain.batched], plain.single) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--algorithm", "STANDALONE", "--draft", EMBEDDED_DIRECTORY, *CHAIN),
        ("--algorithm", "NGRAM", "--num-steps", "4", "--eagle-topk", "2", "--num-draft-tokens", "8"),
    ],
    ids=["STANDALONE", "NGRAM"],
)
def test_the_other_algorithms_serve_and_are_lossless_too(arguments: tuple[str, ...], plain: Answers) -> None:
    with aerie("runtime", *arguments, *FLOAT32) as server:
        assert differing(greedy_batched(server, TEXTS[::2]), plain.batched[::2]) == []
        assert server.metric("sglang:spec_verify_calls_total") > 0


def test_greedy_output_is_the_targets_one_request_at_a_time(tree: Server, plain: Answers) -> None:
    assert differing(greedy_single(tree), plain.single) == []
    assert tree.metric("sglang:spec_verify_calls_total") > 0


def test_greedy_output_is_the_targets_in_a_batch(tree: Server, plain: Answers) -> None:
    assert differing(greedy_batched(tree), plain.batched) == []


@pytest.mark.parametrize("tree", [ADAPTIVE], indirect=True)
def test_chains_get_shorter_in_a_batch_and_longer_again(tree: Server) -> None:
    greedy_batched(tree)
    tree.generate(TEXTS[0], max_new_tokens=SINGLE_TOKENS)
    lengths = re.findall(r"adaptive runtime state: steps \d -> (\d)", tree.log.read_text())
    assert "1" in lengths
    assert lengths[-1] == "3"


@pytest.mark.parametrize("how", list(SAMPLING))
def test_sampled_output_with_a_seed_is_the_targets_token_for_token(tree: Server, plain: Answers, how: str) -> None:
    assert differing(seeded(tree, SAMPLING[how]), plain.seeded[how]) == []


def greedy_among_others(server: Server, texts: Sequence[str]) -> list[list[int]]:
    """Batched, while requests with a penalty come and go, whose batches run SGLang's own way (passes.py)."""
    asked = {"text": QUESTION, "sampling_params": {"max_new_tokens": 3, "presence_penalty": 0.1}}
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(greedy_batched, server, texts)
        while not answers.done():
            server.client.post(f"{server.runtime_url}/generate", json=asked).raise_for_status()
        return answers.result()


def log_probabilities(server: Server) -> list[list[float]]:
    """In batches where others ask for none: of the tokens, the likeliest (no ids: equals have no order) and others."""

    def answer(asked: tuple[int, str]) -> list[float]:
        number, text = asked
        others = [7, number] if number % 2 else None
        info = server.generate(
            text,
            {"return_logprob": number % 4 > 0, "top_logprobs_num": number % 3, "token_ids_logprob": others},
            max_new_tokens=BATCHED_TOKENS,
            temperature=number % 2,
            sampling_seed=number,
        )["meta_info"]
        rows = [info.get(name) or [] for name in ("output_top_logprobs", "output_token_ids_logprobs")]
        of_tokens = [value for logprob, token, _ in info.get("output_token_logprobs", []) for value in (logprob, token)]
        return of_tokens + [logprob for row in itertools.chain(*rows) for logprob, *_ in row or []]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(answer, enumerate(TEXTS[::2])))


@dataclass(frozen=True)
class Bfloat16Answers:
    """Greedy ones one at a time, batched and among others, and seeded ones; and some with their log probabilities."""

    tokens: list[list[int]]
    log_probabilities: list[list[float]]


def bfloat16_answers(*arguments: str) -> Bfloat16Answers:
    with aerie("runtime", *arguments) as server:
        sampled = [seeded(server, how) for how in SAMPLING.values()]
        greedy = greedy_single(server) + greedy_batched(server) + greedy_among_others(server, TEXTS[::4])
        return Bfloat16Answers([*greedy, *itertools.chain(*sampled)], log_probabilities(server))


@pytest.fixture(scope="module")
def plain_bfloat16() -> Bfloat16Answers:
    return bfloat16_answers("--no-speculation")


@pytest.mark.parametrize("drafts", [PROFILE, ADAPTIVE, "tree 3/4/8"])
def test_in_bfloat16_too_answers_are_plain_decodings(drafts: str, plain_bfloat16: Bfloat16Answers) -> None:
    """service/runtime/cpu/cycle.py runs there, SGLang's own passes in float32; verifying has the bits of decoding."""
    answers = bfloat16_answers(*TREES[drafts])
    assert differing(answers.tokens, plain_bfloat16.tokens) == []
    theirs = [pytest.approx(row, rel=0, abs=LOGPROB_ERROR) for row in plain_bfloat16.log_probabilities]
    assert answers.log_probabilities == theirs


def tau(server: Server) -> float:
    """Of greedy answers to some of the prompts."""
    answers = [server.generate(text, max_new_tokens=REFERENCE_TOKENS, ignore_eos=True) for text in TEXTS[::2]]
    return REFERENCE_TOKENS * len(answers) / sum(answer["meta_info"]["spec_verify_ct"] for answer in answers)


@pytest.mark.parametrize("tree", [ADAPTIVE, "tree 3/4/8"], indirect=True)
def test_in_bfloat16_drafts_are_as_good(tree: Server, request: pytest.FixtureRequest) -> None:
    with aerie("runtime", *TREES[request.node.callspec.params["tree"]]) as fast:
        assert tau(fast) == pytest.approx(tau(tree), rel=0.1)


def test_in_bfloat16_no_more_is_verified_than_may_pay() -> None:
    """The profile's draft_p_min: trees get smaller in a batch, and SGLang and the answer say how many were verified."""
    with aerie("runtime") as server:
        widths = []
        for at_once in (1, AT_ONCE):
            with ThreadPoolExecutor(at_once) as pool:
                answers = list(pool.map(lambda text: server.generate(text, max_new_tokens=BATCHED_TOKENS), TEXTS))
            infos = [answer["meta_info"] for answer in answers]
            assert all(sum(info["spec_cap_lens_histogram"]) == info["spec_verify_ct"] for info in infos)
            nodes = sum(n * count for info in infos for n, count in enumerate(info["spec_cap_lens_histogram"]))
            widths.append(nodes / sum(info["spec_verify_ct"] for info in infos))
        assert 1 < widths[1] < widths[0] < 8


@pytest.mark.parametrize("how", DISTRIBUTIONS)
@pytest.mark.parametrize("tree", ["tree 3/4/8"], indirect=True)
def test_sampled_output_has_the_targets_distribution(tree: Server, plain: Answers, how: str) -> None:
    """Independent draws (other seeds) of the first one to four tokens; fixed seeds, so the outcome never varies."""
    ours = draws(tree, SAMPLING[how], first_seed=50_000)
    assert len(set(ours)) > 1, "sampling must not be greedy"
    for length in (1, 2, 3, 4):
        assert p_value([one[:length] for one in ours], [one[:length] for one in plain.draws[how]]) > 0.001


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Beside a server every parallel region waits for a core: with two threads a cycle took seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("tree", ["tree 3/4/8"], indirect=True)
def test_the_reference_decoder_accepts_what_sglang_accepts(tree: Server, request: pytest.FixtureRequest) -> None:
    """Same draft, prompts and tree: the text is the same, and the acceptance length within 3%.

    SGLang counts all of an answer's last cycle, the reference decoder what it emits of it: it goes on for a cycle more.
    """
    shape = TreeShape.parse(request.node.callspec.params["tree"].partition(" ")[2])
    directory = Path(EMBEDDED_DIRECTORY)
    draft = load_draft(DRAFT, target_config(directory).num_hidden_layers)
    target, tokenizer = Target.load(directory, draft.config.taps, torch.float32), load_tokenizer(directory)
    ours, theirs = Acceptance(), Counter[str]()
    for text in TEXTS[::6]:
        answer = tree.generate(text, max_new_tokens=REFERENCE_TOKENS)
        ids = tokenizer.encode(text, add_special_tokens=False)
        ends, more = end_of_sequence(generation_config(directory)), REFERENCE_TOKENS + shape.num_steps
        decoded = decode(target, draft, ids, more, ends, shape)
        assert decoded.ids[:REFERENCE_TOKENS] == answer["output_ids"]
        ours += Acceptance.of(decoded.correct_drafts[: answer["meta_info"]["spec_verify_ct"]])
        theirs += Counter(
            verify_passes=answer["meta_info"]["spec_verify_ct"],
            correct_drafts=answer["meta_info"]["spec_num_correct_drafts"],
        )
    sglang = 1 + theirs["correct_drafts"] / theirs["verify_passes"]
    print(f"tau {shape}: {ours.tau:.3f} here, {sglang:.3f} in SGLang ({theirs['verify_passes']} verify passes)")
    assert ours.tau == pytest.approx(sglang, rel=0.03)
