"""Who is attended, by kind of token: λ, the exact update and SimDual of each, in float64 from the blocks' inputs."""

import numpy as np
from transformers import PreTrainedModel

from .dual import after_output, scores_and_values, tuning_update
from .forward import BlockInput, softmax
from .metrics import cosine
from .prompts import InContext, TaskSettings

KINDS = ("label", "text", "template", "separator")


def token_kinds(prompt: InContext, task: TaskSettings) -> list[str]:
    """What each token before the query is: the first of KINDS that one of its characters is.

    The template has one field, `{text}`.
    """
    text = prompt.tokens.text
    before, after = task.template.split("{text}")
    kind = ["separator"] * len(text)
    for start, end in prompt.demonstrations:
        whole = text[start:end]
        word = next(w for w in task.label_words if whole.endswith(f"{after} {w}"))
        spelled = (
            ["template"] * len(before)
            + ["text"] * (len(whole) - len(before) - len(after) - 1 - len(word))
            + ["template"] * (len(after) + 1)
            + ["label"] * len(word)
        )
        kind[start:end] = spelled
    tokens = prompt.tokens.spans[: prompt.prefix_length]
    return [min((kind[i] for i in range(a, b)), key=KINDS.index) for a, b in tokens]


def part_values(
    base: PreTrainedModel, tuned: PreTrainedModel, blocks: list[BlockInput], kinds: list[str]
) -> dict[str, np.ndarray]:
    """{`name_KIND`: values [layers]} of one example; one token at a time."""
    found: dict[str, list[float]] = {}
    for layer, block in enumerate(blocks):
        plain, moved = (model.model.layers[layer].self_attn for model in (base, tuned))
        scores, values = scores_and_values(plain, plain, block)
        weights = softmax(scores)
        own = softmax(scores[:, len(kinds) :])[:, None] @ values[:, len(kinds) :]
        adds = {kind: np.zeros(values[:, 0].shape) for kind in KINDS}
        masses = dict.fromkeys(KINDS, 0.0)
        for token, kind in enumerate(kinds):
            masses[kind] += float(weights[:, token].mean())
            adds[kind] += weights[:, token, None] * (values[:, token] - own[:, 0])
        whole = after_output(plain, sum(adds.values()))
        tuning = tuning_update(plain, moved, block.since(len(kinds)))
        for kind in KINDS:
            part = after_output(plain, adds[kind])
            numbers = {
                f"lambda_{kind}": masses[kind],
                f"update_share_{kind}": float(part @ whole / (whole @ whole)),
                f"update_norm_{kind}": float(np.linalg.norm(part) / np.linalg.norm(whole)),
                f"simdual_{kind}": cosine(part, tuning),
            }
            for name, number in numbers.items():
                found.setdefault(name, []).append(number)
    return {name: np.array(numbers) for name, numbers in found.items()}
