"""What a client may have beside its answer: header `x-aerie-include: speculation`, field `usage.speculation`.

Owns the header and the field. Refuses to own the figures (record.py) and where the field goes (delivery.py,
responses_output.py). A header, as for choosing a pool: OpenAI refuses fields of a body that it does not know, everybody
ignores unknown headers, so an application that asks here works elsewhere unchanged.
"""

from typing import Any

from service.gateway.errors import InvalidRequest
from service.gateway.record import Speculation

INCLUDE_HEADER = "x-aerie-include"
SPECULATION = "speculation"


def wants_speculation(header: str | None) -> bool:
    """Whether the client asked for acceptance figures.

    Raises:
        InvalidRequest: it asked for what there is not.
    """
    if header is None:
        return False
    if header.strip() != SPECULATION:
        message = f"{INCLUDE_HEADER}: must be {SPECULATION}, not {header[:50]!r}."
        raise InvalidRequest(message, param=INCLUDE_HEADER, code="invalid_value")
    return True


def speculation_block(figures: Speculation | None) -> dict[str, Any] | None:
    """`usage.speculation`: None where nothing is known of it, as of plain decoding."""
    if figures is None:
        return None
    return {
        "acceptance_length": figures.acceptance_length,
        "verify_passes": figures.verify_passes,
        "proposed_drafts": figures.proposed_drafts,
        "accepted_drafts": figures.correct_drafts,
        "accepted_by_position": figures.accepted_at(),
    }
