"""TARGET on the command line: a directory of which config.json is enough."""

from pathlib import Path

from transformers import PretrainedConfig

from draft_models.errors import TargetError
from draft_models.target import load_tokenizer, target_config, template_hash


def text_config(directory: Path) -> PretrainedConfig:
    """The configuration of the language model, of one that also sees or hears too.

    Raises:
        TargetError: none, broken, or of an architecture that Transformers does not know.
    """
    try:
        return target_config(directory).get_text_config()
    except (OSError, ValueError) as error:
        raise TargetError(f"{directory}: {str(error).strip().splitlines()[0]}") from error


def template_sha256(directory: Path) -> str | None:
    """Of the chat template; None without a tokenizer, or without a template."""
    try:
        return template_hash(load_tokenizer(directory))
    except TargetError:
        return None
