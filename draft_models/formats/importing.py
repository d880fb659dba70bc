# ruff: noqa: N803, N806  shape suffixes
"""Import of a published draft: its format is found, every tensor's fate decided, and a `DraftModel` made of the rest.

Owns the decisions: what is kept, dropped or refused, and why. Refuses to guess: a tensor without a known meaning stops
the import. Refuses to own files (source.py, checkpoint.py) and the terminal.

Shapes: V target vocabulary, D hidden size.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from draft_models.config import DraftConfig
from draft_models.errors import FormatError
from draft_models.formats import eagle, mapping, sglang, speculators
from draft_models.formats.reading import Format, Reading
from draft_models.formats.report import Action, Fate, ImportReport
from draft_models.formats.source import Source
from draft_models.model import DraftModel

FORMATS: tuple[Format, ...] = (speculators, sglang, eagle)
"""In this order: what says its name first."""
DROPPED = {
    "verifier_norm.weight": "the target's, for training",
    "verifier_lm_head.weight": "the target's, for training",
    "midlayer.self_attn.rotary_emb.inv_freq": "made anew from the configuration",
}
REFUSED = {
    r"(input_norm|fc_norm\..*|aux_norm_.*)\.weight": "a norm of the features; Aerie's draft model has none",
    r"midlayer\.self_attn\.[qk]_norm\.weight": "query and key norms (Qwen3's layer); SGLang's draft has a Llama layer",
    r".*\.bias": "a bias; SGLang never loads one in the draft's layer, and Aerie's draft model has none in fc",
    r"layers\.[1-9]\d*\..*": "a second layer; Aerie's draft model has one",
}


def detect(source: Source) -> Format:
    """Raises FormatError: none of the known formats, or a draft of EAGLE-1 or EAGLE-2."""
    names = frozenset(source.tensors)
    for candidate in FORMATS:
        if candidate.recognises(source.config, names):
            return candidate
    if eagle.is_eagle_1({sglang.sglang_name(name): tensor.shape for name, tensor in source.tensors.items()}):
        raise FormatError(
            f"{source.directory}: a draft of EAGLE-1 or EAGLE-2 (fc reads an embedding and one feature); SGLang serves "
            "it with --speculative-algorithm EAGLE, and there is nothing to import"
        )
    known = ", ".join(candidate.NAME for candidate in FORMATS)
    raise FormatError(f"{source.directory}: no known format of an EAGLE-3 draft; known: {known}")


def import_draft(
    source: Source, target: PretrainedConfig, embedding_VD: Tensor | None, taps: tuple[int, ...] | None = None
) -> tuple[ImportReport, DraftModel | None]:
    """The report, and the draft in float32 unless something stands against it.

    Args:
        source: the published draft.
        target: the (text) configuration of the model it drafts for.
        embedding_VD: the target's embedding, to compare a copy with; None if it is not at hand.
        taps: Hugging Face's indices, instead of those that the source's configuration gives.

    Raises:
        FormatError: no known format, or a configuration that describes no draft at all.
        ConfigError: a target without default taps, and none given.
    """
    form = detect(source)
    reading = form.read(source.config, target.num_hidden_layers)
    if taps is not None:
        reading = replace(reading, taps=taps, warnings=())
    reading = replace(reading, draft_vocab_size=_draft_vocab_size(reading, source))
    config = reading.draft_config(target.num_hidden_layers, target.max_position_embeddings)
    renamed, twice = _renamed(form, source.tensors)
    given = {name: renamed.pop(name)[1] for name in ("d2t", "t2d") if name in renamed}
    sizes = config.draft_vocab_size, config.vocab_size
    d2t_W, t2d_V, fates = mapping.complete(given.get("d2t"), given.get("t2d"), *sizes)
    fates = [*_layer_fates(config, renamed, embedding_VD), *fates, *twice]
    report = ImportReport(
        format=form.NAME,
        files=source.files,
        taps=config.taps,
        sglang_layer_ids=tuple(config.sglang_layer_ids),
        tensors=tuple(fates),
        changes=(*_position_changes(reading, target), *_dtype_changes(source.tensors)),
        warnings=reading.warnings,
        refusals=(*reading.refusals, *_misfits(reading, source, target), *_beyond(config)),
    )
    if not report.ok:
        return report, None
    draft = DraftModel(config, d2t_W, t2d_V)
    kept = {name: tensor for name, (_, tensor) in renamed.items() if name in draft.state_dict()}
    draft.load_state_dict(kept | {"d2t": d2t_W, "t2d": t2d_V})
    return report, draft


def _position_changes(reading: Reading, target: PretrainedConfig) -> list[str]:
    positions, longer = reading.layer.max_position_embeddings, target.max_position_embeddings
    if positions >= longer:
        return []
    change = f"max_position_embeddings {positions} -> {longer}"  # no angle of the ropes in DraftConfig depends on it
    why = "SGLang starts no draft with fewer positions than its target"
    return [f"{change}: {why}; acceptance beyond {positions} tokens has to be measured"]


def _draft_vocab_size(reading: Reading, source: Source) -> int:
    head = source.tensors.get("lm_head.weight", source.tensors.get("model.lm_head.weight"))
    if reading.draft_vocab_size is not None:
        return reading.draft_vocab_size
    if head is None or head.ndim != 2:
        raise FormatError(
            f"{source.directory}: neither draft_vocab_size nor lm_head.weight: the draft shares the target's head, "
            "which SGLang can serve (draft_vocab_size null) and Aerie's draft model has not"
        )
    return head.shape[0]


def _misfits(reading: Reading, source: Source, target: PretrainedConfig) -> list[str]:
    sizes = {
        "hidden_size": (reading.layer.hidden_size, target.hidden_size),
        "vocab_size": (reading.layer.vocab_size, target.vocab_size),
        "target_hidden_size": (source.config.get("target_hidden_size") or target.hidden_size, target.hidden_size),
    }
    return [
        f"{name} is {found}, the target's is {wanted}: it was trained for another target"
        for name, (found, wanted) in sizes.items()
        if found != wanted
    ]


def _beyond(config: DraftConfig) -> list[str]:
    if config.taps[-1] < config.num_target_layers:
        return []
    return [f"taps {list(config.taps)}: the last is the target's final, normed state, which SGLang cannot capture"]


def _renamed(form: Format, tensors: Mapping[str, Tensor]) -> tuple[dict[str, tuple[str, Tensor]], list[Fate]]:
    """{SGLang's name: (the source's name, tensor)}, and those whose name is taken already."""
    renamed: dict[str, tuple[str, Tensor]] = {}
    twice = []
    for name, tensor in tensors.items():
        new = form.sglang_name(name)
        if new in renamed:
            twice.append(Fate(name, Action.REFUSED, new, f"{renamed[new][0]} has the same meaning"))
        else:
            renamed[new] = (name, tensor)
    return renamed, twice


def _layer_fates(
    config: DraftConfig, renamed: Mapping[str, tuple[str, Tensor]], embedding_VD: Tensor | None
) -> list[Fate]:
    with torch.device("meta"):  # shapes alone, whatever size the configuration names
        blank = DraftModel(config, torch.empty(config.draft_vocab_size), torch.empty(config.vocab_size))
    expected = {name: tensor.shape for name, tensor in blank.state_dict().items() if name not in ("d2t", "t2d")}
    missing = [Fate(name, Action.MISSING, name) for name in sorted(expected.keys() - renamed.keys())]
    found = [
        _fate(old, new, tensor, expected[new])
        if new in expected
        else _superfluous(old, new, tensor, config, embedding_VD)
        for new, (old, tensor) in sorted(renamed.items())
    ]
    return [*missing, *found]


def _fate(old: str, new: str, tensor: Tensor, expected: torch.Size) -> Fate:
    if tensor.shape != expected:
        return Fate(old, Action.SHAPE, new, f"{list(tensor.shape)}, not {list(expected)}")
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        return Fate(old, Action.REFUSED, new, f"{tensor.dtype} weights; only 16 and 32 bit ones can be read")
    return Fate(old, Action.KEPT if old == new else Action.RENAMED, new)


def _superfluous(old: str, new: str, tensor: Tensor, config: DraftConfig, embedding_VD: Tensor | None) -> Fate:
    if new == "embed_tokens.weight":
        return _embedding_fate(old, tensor, config, embedding_VD)
    if new in DROPPED:
        return Fate(old, Action.DROPPED, why=DROPPED[new])
    for pattern, why in REFUSED.items():
        if re.fullmatch(pattern, new):
            return Fate(old, Action.REFUSED, why=why)
    return Fate(old, Action.UNKNOWN, why="no known meaning; SGLang would skip it silently")


def _embedding_fate(name: str, tensor: Tensor, config: DraftConfig, embedding_VD: Tensor | None) -> Fate:
    size = (config.vocab_size, config.hidden_size)
    if tensor.shape != size:
        return Fate(name, Action.SHAPE, why=f"{list(tensor.shape)}, and the target's embedding is {list(size)}")
    if embedding_VD is None:
        why = "of the size of the target's embedding, which SGLang uses; the values could not be compared"
        return Fate(name, Action.DROPPED, why=why)
    if tensor.shape != embedding_VD.shape or not _alike(tensor, embedding_VD):
        return Fate(name, Action.REFUSED, why="it is not the target's embedding, which SGLang would put in its place")
    return Fate(name, Action.DROPPED, why="a copy of the target's embedding, which SGLang uses")


def _alike(tensor: Tensor, embedding_VD: Tensor) -> bool:
    """Equal but for the rounding of half precision, either kind."""
    return torch.allclose(tensor.float(), embedding_VD.float(), rtol=2**-7, atol=1e-6)


def _dtype_changes(tensors: Mapping[str, Tensor]) -> list[str]:
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} - {torch.bfloat16}
    return [f"weights {str(kind).removeprefix('torch.')} -> bfloat16" for kind in sorted(kinds, key=str)]
