"""A runtime's settings: one frozen model, checked as a whole, and SGLang's command line made from it.

Owns which flags SGLang gets. Refuses to own where the settings come from (`profiles`), whether this machine can meet
them (`preflight`) and the process (`launch`). sglang is imported only inside the launched process.
"""

import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from service.runtime import adaptive
from service.speculation import Algorithm, SpeculativeConfig, check_attention, sglang_flags

OWNED_FLAGS = frozenset(
    {
        "--attention-backend",
        "--context-length",
        "--device",
        "--dist-init-addr",
        "--dtype",
        "--host",
        "--max-running-requests",
        "--max-total-tokens",
        "--mem-fraction-static",
        "--model-path",
        "--nnodes",
        "--node-rank",
        "--page-size",
        "--port",
        "--pp-size",
        "--served-model-name",
        "--tp-size",
        "--uvicorn-access-log-exclude-prefixes",
    }
)
DATA_PARALLEL_FLAGS = frozenset({"--data-parallel-size", "--dp-size"})
"""Several engines behind one address: batch sizes and GPUs would be counted as those of one."""
ASKED_ALL_THE_TIME = ("/ready", "/health", "/v1/loads", "/metrics")
"""By gateways, kubelets and Prometheus; the access log of the rest can be read."""


class RuntimeConfig(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides how one SGLang server runs."""

    model: str = Field(min_length=1, description="directory, hub repository, or the name of the embedded model")
    served_model_name: str = Field(min_length=1, description="the `model` that clients ask for")
    device: Literal["cpu", "cuda"]
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    host: str = "127.0.0.1"
    port: int = Field(default=30000, ge=1, le=65535)
    tp_size: int = Field(default=1, ge=1)
    pp_size: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1, description="that share one replica's GPUs; each starts its own SGLang")
    node_rank: int = Field(default=0, ge=0, description="of this node; 0 is the one that serves")
    dist_init_addr: str | None = Field(default=None, description="HOST:PORT on node 0 where the nodes meet")
    attention_backend: str | None = None
    page_size: int = Field(default=1, ge=1)
    max_running_requests: int = Field(ge=1, description="always passed: SGLang would lower it to 48 under speculation")
    max_total_tokens: int | None = Field(default=None, ge=256, description="tokens of KV cache")
    mem_fraction_static: float | None = Field(default=None, gt=0, lt=1)
    context_length: int | None = Field(default=None, ge=16)
    min_memory_gib: float = Field(default=0, ge=0, description="memory that must be free before the start")
    startup_budget_s: float = Field(
        default=600, gt=0, description="time from start to ready, after which it has failed"
    )
    drain_timeout_s: float = Field(
        default=10, ge=0, description="from a signal to SGLang's end; it finishes its requests, then takes up to 20 s"
    )
    speculation: SpeculativeConfig
    extra_args: tuple[str, ...] = Field(default=(), description="further SGLang flags, passed as they are")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_device()
        self._check_nodes()
        if self.pp_size > 1 and self.speculation.algorithm is Algorithm.EAGLE3:
            raise ValueError("pp_size: SGLang's EAGLE3 has no pipeline parallelism; use pp_size=1 and a larger tp_size")
        check_attention(self.speculation, attention_backend=self.attention_backend, page_size=self.page_size)
        for flag in (argument.partition("=")[0] for argument in self.extra_args):
            if flag in OWNED_FLAGS or flag.startswith("--speculative-"):
                raise ValueError(f"extra_args: {flag} is set by Aerie from a field of its own; use that field")
            if flag in DATA_PARALLEL_FLAGS:
                raise ValueError(f"extra_args: {flag}: a replica is one SGLang; start more replicas instead")
        return self

    def _check_device(self) -> None:
        if self.device != "cpu":
            if self.speculation.draft_p_min is not None:
                raise ValueError("draft_p_min: SGLang's trees have one size on a GPU; leave it out")
            return
        if self.tp_size * self.pp_size > 1:
            name = "tp_size" if self.tp_size > 1 else "pp_size"
            raise ValueError(f"{name}: the CPU runtime is one process; use {name}=1, or a profile for GPUs")
        if self.attention_backend not in (None, "intel_amx"):
            raise ValueError(
                "attention_backend: on CPU only intel_amx can verify drafts; use intel_amx or leave it out"
            )

    def _check_nodes(self) -> None:
        gpus = self.tp_size * self.pp_size
        if gpus % self.nodes:
            raise ValueError(f"nodes: tp_size * pp_size = {gpus} GPUs do not divide among {self.nodes} nodes")
        if self.node_rank >= self.nodes:
            raise ValueError(f"node_rank: {self.node_rank} is none of {self.nodes} nodes, which count from 0")

    def command(self) -> list[str]:
        """The command that starts SGLang: on CPU through `service.runtime.cpu.serve`, which brings our kernels."""
        module = "service.runtime.cpu.serve" if self.device == "cpu" else "sglang.launch_server"
        return [sys.executable, "-m", module, *self.flags()]

    def flags(self) -> list[str]:
        """SGLang's flags."""
        flags = {
            "model-path": self.model,
            "served-model-name": self.served_model_name,
            "device": self.device,
            "dtype": self.dtype,
            "host": self.host,
            "port": self.port,
            "tp-size": self.tp_size,
            "pp-size": self.pp_size,
            **self._node_flags(),
            "attention-backend": "intel_amx" if self.device == "cpu" else self.attention_backend,
            "page-size": self.page_size,
            "max-running-requests": self.max_running_requests,
            "max-total-tokens": self.max_total_tokens,
            "mem-fraction-static": self.mem_fraction_static,
            "context-length": self.context_length,
        }
        named = [part for name, value in flags.items() if value is not None for part in (f"--{name}", str(value))]
        quiet = ("--uvicorn-access-log-exclude-prefixes", *ASKED_ALL_THE_TIME)
        return [*named, "--enable-metrics", *quiet, *self._speculation_flags(), *self.extra_args]

    def _speculation_flags(self) -> list[str]:
        flags = sglang_flags(self.speculation)
        if self.speculation.adaptive is not None:
            flags += [
                "--speculative-adaptive",
                "--speculative-adaptive-config",
                str(adaptive.path(self.speculation.adaptive)),
            ]
        return flags

    def _node_flags(self) -> dict[str, str | int | None]:
        if self.nodes == 1:
            return {}
        return {"nnodes": self.nodes, "node-rank": self.node_rank, "dist-init-addr": self.dist_init_addr}

    @property
    def ready_path(self) -> str:
        """What answers 200 once this node's part is loaded: nodes beside the first serve nothing else."""
        return "/ready" if self.node_rank == 0 else "/health"

    @property
    def is_local(self) -> bool:
        """Whether the model and the draft are directories, so that no hub need be asked."""
        return all(Path(path).is_dir() for path in (self.model, self.speculation.draft) if path is not None)
