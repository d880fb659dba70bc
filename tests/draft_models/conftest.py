"""What the command line needs: a tiny target in a directory, rows and prompts for it."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.draft_models import tiny

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %} t0"


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A target, training rows and two tasks of prompts."""
    home = tmp_path_factory.mktemp("home")
    tiny.target().model.save_pretrained(home / "target")
    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(tiny.VOCAB)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=TEMPLATE, eos_token="t1")
    tokenizer.save_pretrained(home / "target")
    rows = [{"ids": row.ids, "response_start": row.response_start, "prompt_id": row.key} for row in tiny.rows(12)]
    (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for task in ("math", "code"):
        (home / f"{task}.jsonl").write_text('{"turns": ["t3 t4 t5"]}\n{"turns": ["t6 t7"]}\n')
    return home
