"""Which replica and which version serve a request: pure choosing, from names and numbers.

Owns the hashing of a conversation's head, the order of replicas for it, the bound on load and the weighted split.
Refuses to own who may be chosen at all (pool.py) and how loads come about (load.py). Hashes are blake2b: the same in
every process, so that several gateways send a conversation to the same place.
"""

import math
import random
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from service.gateway.load import Load

HEAD_CHARS = 256
"""Of a conversation's first user message, or of a completion's prompt."""

BOUND = 1.25
"""A replica takes a conversation as long as it is at most this much busier than the mean ("consistent hashing with
bounded loads", Mirrokni et al. 2016)."""

_INSTRUCTIONS = ("system", "developer")


def prefix_key(document: Mapping[str, Any]) -> bytes | None:
    """What names the prompt's head: every later turn of a conversation has the same key. None without a text prompt.

    Of a chat, the instructions before the first user message and that message's first `HEAD_CHARS` characters; of a
    completion, the prompt's (a list's first). Any JSON object will do; a hash, so no prompt is kept.
    """
    texts = _chat_head(document["messages"]) if "messages" in document else _prompt_head(document.get("prompt"))
    if not any(texts):
        return None
    digest = blake2b(digest_size=16)
    for text in texts:
        data = text.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8) + data)
    return digest.digest()


def _chat_head(messages: Any) -> list[str]:  # noqa: ANN401 - JSON of the client
    texts = []
    for message in messages if isinstance(messages, list) else ():
        role = message.get("role") if isinstance(message, dict) else None
        if role in _INSTRUCTIONS:
            texts.append(_text(message.get("content")))
        elif role == "user":
            texts.append(_text(message.get("content"))[:HEAD_CHARS])
            break
    return texts


def _prompt_head(prompt: Any) -> list[str]:  # noqa: ANN401 - JSON of the client
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    return [first[:HEAD_CHARS]] if isinstance(first, str) else []


def _text(content: Any) -> str:  # noqa: ANN401 - JSON of the client
    """A string and a list of one text part with that string are the same to a chat template."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def preference(key: bytes, weights: Mapping[str, float]) -> list[str]:
    """The names in this key's order: weighted rendezvous hashing (Schindelhauer and Schomaker 2005).

    Each name is first for its share of all keys. A name that leaves moves only the keys it was first for, and a weight
    that changes moves keys only to or from its name. Names of weight 0 are left out.
    """
    if len(weights) == 1:
        return [name for name, weight in weights.items() if weight > 0]
    digest = blake2b(key, digest_size=32).digest()
    scores = {name: _score(digest, name, weight) for name, weight in weights.items() if weight > 0}
    return sorted(scores, key=lambda name: (-scores[name], name))


def _score(digest: bytes, name: str, weight: float) -> float:
    hashed = blake2b(digest + name.encode(), digest_size=8).digest()
    uniform = ((int.from_bytes(hashed) >> 12) + 0.5) / 2**52  # exact in a float, so never 0 or 1
    return -weight / math.log(uniform)


def pick(loads: Mapping[str, Load], key: bytes | None, rng: random.Random) -> str:
    """The replica for a request: its conversation's, unless that is too busy; without a key, the less busy of two."""
    if len(loads) == 1:
        return next(iter(loads))
    if key is None:
        return less_busy_of_two(loads, rng)
    return first_within_bound(loads, preference(key, dict.fromkeys(loads, 1.0)))


def less_busy_of_two(loads: Mapping[str, Load], rng: random.Random) -> str:
    """Power of two choices (Mitzenmacher 2001): nearly as even as the least busy, and it does not herd.

    With reports a second old, all gateways would send everything to the one replica that was idle then.
    """
    names = rng.sample(sorted(loads), min(2, len(loads)))
    return min(names, key=lambda name: (loads[name].busy + 1) / loads[name].capacity)


def first_within_bound(loads: Mapping[str, Load], order: Iterable[str]) -> str:
    """The first that, with this request, holds at most `BOUND` times its share of all requests, rounded up.

    A share goes by capacity. Some replica is always within: the limits add up to more than there are requests.
    """
    per_slot = BOUND * (sum(load.busy for load in loads.values()) + 1) / sum(load.capacity for load in loads.values())
    return next(name for name in order if loads[name].busy + 1 <= math.ceil(per_slot * loads[name].capacity))
