"""One seed's recordings in the form that Dai's published analysis code reads, and the same as Parquet."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from raydual.data.prompts import DemonstrationSet
from raydual.errors import UserError
from raydual.measure.conditions import Chunk, Outcome
from raydual.measure.rank_metrics import Training, training_tokens
from raydual.model.finetune import finetune
from raydual.one_seed.laboratory import Laboratory
from raydual.run_directory.directory import write_table, write_text

_LAYERS = pa.list_(pa.list_(pa.float32()))
_HEADS = pa.list_(_LAYERS)
_EXAMPLE = [
    pa.field("example", pa.int64(), False, {"description": "place in the measured set"}),
    pa.field("self_attn_out_hiddens", _LAYERS, False, {"description": "[layers, hidden], after o_proj, last token"}),
    pa.field("attn_map", _HEADS, False, {"description": "[layers, heads, query_len], raw scores of the last token"}),
    pa.field("gold_label", pa.int64(), False),
    pa.field("pred_label", pa.int64(), False, {"description": "label word with the highest score"}),
]
_QUERY = pa.field("attn_q", _LAYERS, False, {"description": "[layers, heads * head_dim], q_proj output, last token"})
_CONTEXT = pa.field(
    "attn_map_ctx", _LAYERS, False, {"description": "[layers, context_len], summed over heads, no separators"}
)
_TRAINING = pa.field("attn_q", _HEADS, False, {"description": "[layers, tokens, heads * head_dim]"})

SCHEMAS = {
    "zs": pa.schema(_EXAMPLE),
    "icl": pa.schema([*_EXAMPLE, _CONTEXT]),
    "ftzs": pa.schema([*_EXAMPLE, _QUERY]),
    "ft": pa.schema([pa.field("example", pa.int64(), False, {"description": "place in the prompt"}), _TRAINING]),
}
"""Columns by recording: zero-shot, in-context, fine-tuned, and the fine-tuning pass over each demonstration.

Tokens stand side by side across recordings. In every `attn_map` they are those that are the same alone and in context,
without the first one: that code compares all that it finds there. In `attn_map_ctx` and in `ft` they are likewise those
of each demonstration, after its first one, which that code skips.
"""

Entry = dict[str, Any]


@dataclass(frozen=True)
class _Seed:
    """What the entries of a seed are made from."""

    demonstrations: DemonstrationSet
    training: Training
    recordings: tuple[dict[str, Tensor], ...]

    def context_places(self) -> list[int]:
        """Places in the prompt of every demonstration's first token and of its paired ones, in order."""
        first = self.demonstrations.first_index.tolist()
        paired = self.demonstrations.prefix_index
        return [
            place
            for example, start in enumerate(first)
            for place in (start, *paired[self.demonstrations.example_index == example].tolist())
        ]


def record_seed(laboratory: Laboratory, seed: int) -> dict[str, list[Entry]]:
    """The entries of every recording of a seed, keyed as `SCHEMAS`.

    Raises
    ------
    UserError
        The seed cannot be measured, or the sweep's variants are not those that the format knows.
    """
    measures = laboratory.study.config.measures
    if measures.update_field != "attn_out" or measures.query_field != "query" or measures.keep_first_token:
        raise UserError("measures: the format needs update_field attn_out, query_field query, keep_first_token false")
    demonstrations = laboratory.demonstrations(seed)
    seeds = laboratory.seed_measurer
    tuned = finetune(seeds.model, [demonstrations], laboratory.settings, seeds.fields["train"])
    if not bool(tuned.finite[0]):
        raise UserError(f"seed {seed}: fine-tuning diverged at learning rate {laboratory.settings.learning_rate:g}")
    of_seed = _Seed(demonstrations, training_tokens([demonstrations], tuned, "query")[0], tuned.recordings)
    entries: dict[str, list[Entry]] = defaultdict(list)
    with torch.inference_mode():
        prefix = seeds.encode([demonstrations])
        for chunk, passes, _ in seeds.passes(prefix, tuned):
            for name, condition in (("zs", "zsl"), ("icl", "icl"), ("ftzs", "ft")):
                entries[name] += _chunk_entries(chunk, condition, passes, of_seed)
    for found in entries.values():
        found.sort(key=lambda entry: entry["example"])
    entries["ft"] = list(_training_entries(of_seed))
    return dict(entries)


def _chunk_entries(chunk: Chunk, condition: str, passes: dict[str, Outcome], seed: _Seed) -> Iterator[Entry]:
    outcome = passes[condition]
    for row, example in enumerate(chunk.index.tolist()):
        entry = {
            "example": example,
            "self_attn_out_hiddens": outcome.fields["attn_out"][row].tolist(),
            "attn_map": _map(chunk, row, condition, passes).tolist(),
            "gold_label": int(chunk.labels[row]),
            "pred_label": int(outcome.prediction[row]),
        }
        if condition == "icl":
            summed = outcome.fields["scores_demo"][row].sum(dim=1)
            entry["attn_map_ctx"] = summed[:, seed.context_places()].tolist()
        if condition == "ft":
            entry["attn_q"] = outcome.fields["query"][row].tolist()
        yield entry


def _map(chunk: Chunk, row: int, condition: str, passes: dict[str, Outcome]) -> Tensor:
    """Scores `[layers, heads, pairs]` on the aligned tokens, as the metrics see them."""
    real = chunk.aligned[row]

    def at(name: str, places: Tensor) -> Tensor:
        return passes[name].fields["scores_query"][row][..., places[row][real]]

    if condition != "icl":
        return at(condition, chunk.aligned_alone)
    scores, alone = at("icl", chunk.aligned_in_context).clone(), at("zsl", chunk.aligned_alone)
    scores[0] = torch.where(chunk.same_in_first_layer[row][real], alone[0], scores[0])
    return scores


def _training_entries(seed: _Seed) -> Iterator[Entry]:
    """Each demonstration's first token and its paired ones; equal tokens are equal in the first layer."""
    query = seed.training.query.clone()
    query[0] = query[0, seed.training.first_query_alike]
    for example, recorded in enumerate(seed.recordings):
        own = torch.as_tensor(seed.demonstrations.example_index == example, device=query.device)
        tokens = torch.cat([recorded["query"][0][:, :1], query[:, own]], dim=1)
        yield {"example": example, "attn_q": tokens.tolist()}


def write_recording(entries: dict[str, list[Entry]], folder: Path, form: str) -> list[Path]:
    """Write every recording as `NAME/record_info.jsonl` (`dai`) or `NAME.parquet` (`parquet`); returns the files."""
    files = []
    for name, found in entries.items():
        path = folder / name / "record_info.jsonl" if form == "dai" else folder / f"{name}.parquet"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if form == "dai":
                lines = ({k: v for k, v in entry.items() if k != "example"} for entry in found)
                write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
            else:
                write_table(path, pa.Table.from_pylist(found, SCHEMAS[name]), SCHEMAS[name])
        except OSError as error:
            raise UserError(f"--out {folder}: cannot write there: {error.strerror}") from None
        files.append(path)
    return files
