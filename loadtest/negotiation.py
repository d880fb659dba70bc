"""In which words an endpoint tells acceptance figures and token counts: found out by asking.

Owns the order of the attempts. Refuses to own the words (client.py, stream.py).
"""

from dataclasses import replace

from loadtest.client import AcceptanceFigures, Client, Sampling

_ASKED_TOKENS = 8
"""Enough for an answer that speculated to have figures."""


async def negotiated(client: Client, plain: Sampling) -> Sampling:
    """What can be asked of this endpoint: a gateway's words, SGLang's, token counts alone, or nothing further."""
    for figures in (AcceptanceFigures.GATEWAY, AcceptanceFigures.SGLANG, AcceptanceFigures.NONE):
        asked = replace(plain, figures=figures, token_counts=True)
        if await _answers(client, replace(asked, max_tokens=_ASKED_TOKENS)):
            return asked
    return plain


async def _answers(client: Client, sampling: Sampling) -> bool:
    request = await client.chat([{"role": "user", "content": "Hello."}], sampling)
    return request.answer is not None and (
        sampling.figures is not AcceptanceFigures.GATEWAY or request.answer.acceptance is not None
    )
