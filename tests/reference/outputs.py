"""What the context and fine-tuning say next, example by example: SciPy's divergences, plain loops for the rest."""

import math

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy

TOP, BINS = 10, 10


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p‖q) in nats of probabilities."""
    return float(entropy(p, q))


def js(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence in nats; SciPy gives its square root."""
    return float(jensenshannon(p, q) ** 2)


def overlap(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """Share of the top tokens that both have, and the cosine of the two tops."""
    tops = [sorted(range(len(x)), key=lambda token: -x[token])[:TOP] for x in (p, q)]
    both = set(tops[0]) & set(tops[1])
    norms = [math.sqrt(sum(x[token] ** 2 for token in top)) for x, top in zip((p, q), tops, strict=True)]
    return len(both) / TOP, sum(p[token] * q[token] for token in both) / (norms[0] * norms[1])


def calibration_error(confidence: list[float], right: list[bool]) -> float:
    """Gap between confidence and accuracy over bins of equally many examples, where no two confidences are equal."""
    if len(confidence) < BINS:
        return math.nan
    order = sorted(range(len(confidence)), key=lambda i: confidence[i])
    size, longer = divmod(len(order), BINS)
    error, start = 0.0, 0
    for number in range(BINS):
        inside = order[start : start + size + (number < longer)]
        start += len(inside)
        accuracy = sum(right[i] for i in inside) / len(inside)
        error += len(inside) / len(order) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return error


def output_values(examples: list) -> dict[tuple[str, str], float]:
    """Every number of one seed's `ExampleRecord`s by (metric, condition)."""
    found: dict[tuple[str, str], list[float]] = {}
    flips = {f"flips_{a}{b}{c}": 0 for a in "wr" for b in "wr" for c in "wr"}
    for example in examples:
        for where, of in (
            ("vocabulary", {name: example.recordings[name].logits for name in ("icl", "ft")}),
            ("labels", example.scores),
        ):
            p, q = softmax(of["icl"]), softmax(of["ft"])
            found.setdefault((f"kl_{where}", "icl-ft"), []).append(kl(p, q))
            found.setdefault((f"js_{where}", "icl-ft"), []).append(js(p, q))
            if where == "vocabulary":
                share, cosine = overlap(p, q)
                found.setdefault(("top10_overlap", "icl-ft"), []).append(share)
                found.setdefault(("overlap_cosine", "icl-ft"), []).append(cosine)
        flips["flips_" + "".join("r" if example.right(name) else "w" for name in ("zsl", "icl", "ft"))] += 1
    values = {key: float(np.mean(of_each)) for key, of_each in found.items()}
    values |= {(name, "icl-ft"): float(count) for name, count in flips.items()}
    for name in ("zsl", "icl", "ft"):
        confidence = [float(softmax(example.scores[name]).max()) for example in examples]
        values["calibration_error", name] = calibration_error(confidence, [e.right(name) for e in examples])
    return values
