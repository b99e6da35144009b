"""Bootstrap intervals over identities.

Captions of one person stand or fall together, so whole identities are drawn anew, not single queries. The gallery stays
as it is: the interval says how far the figure would move with other people asking, not with other people to confuse
them with.
"""

import numpy as np

from modeling_rogle.metrics.retrieval import Ranking

NAMES = ("R@1", "mAP", "mINP")


def bootstrap(
    ranking: Ranking, person_ids: np.ndarray, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of R@1, mAP and mINP.

    Args:
        ranking: of Q queries; those without a positive are left out, as from the figures themselves.
        person_ids: `[Q]` the identity of each query.
        draws: how often as many identities as there are are drawn with replacement.
        level: share of the draws within the interval.

    Returns:
        Low and high in percent by name; empty where no query was scored.

    Raises:
        ValueError: no draws, or a level outside (0, 1).
    """
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap: draws must be at least 1 and level in (0, 1), not {draws} and {level}")
    scored = ranking.n_positives > 0
    if not scored.any():
        return {}
    _, person = np.unique(person_ids[scored], return_inverse=True)
    counts = np.bincount(person).astype(np.float64)
    values = (ranking.first_rank == 1, ranking.average_precision, ranking.inverse_penalty)
    sums = np.stack([np.bincount(person, weights=value[scored].astype(np.float64)) for value in values], axis=1)
    # How often each identity is drawn: one row a draw, and every mean of all draws is one product.
    n = len(counts)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    means = 100 * (times @ sums) / (times @ counts)[:, None]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(NAMES)}
