"""The metrics of what each demonstration does in context and asks for in fine-tuning (`measures.influence`)."""

from raydual.catalogue.metric import Metric

INFLUENCE_METRICS = (
    Metric(
        "influence_tau", "Influence, Kendall's τ",
        "Rank correlation, over demonstrations, of what each does to the gold label's margin in context with what its "
        "fine-tuning step asks for.",
        family="influence", panel="influence", short="done and asked", shown="tables",
        per_layer=False, similarity=True, baselines=(("influence_tau_random", "icl-ft"),),
    ),
    Metric(
        "influence_tau_random", "Influence, Kendall's τ, random",
        "Rank correlation of what each demonstration does in context with uniform noise.",
        family="influence", panel="influence", short="random", shown="summary",
        per_layer=False, random=True,
    ),
    Metric(
        "influence_done", "Size of influence, done",
        "Mean size, over demonstrations, of what one in the query's attention changes in the gold label's margin.",
        ("icl",), family="influence", panel=None, shown="summary", per_layer=False, bounds=(0.0, None),
    ),
    Metric(
        "influence_asked", "Size of influence, asked",
        "Mean size, over demonstrations, of the first-order effect of one's fine-tuning step on that margin.",
        ("ft",), family="influence", panel=None, shown="summary", per_layer=False, bounds=(0.0, None),
    ),
)  # fmt: skip
