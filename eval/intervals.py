"""Bootstrap intervals over identities.

The captions of one person are not independent, so whole identities are resampled instead of single queries. The gallery
is not resampled: the interval covers the choice of the queried people, not that of the distractors.
"""

import numpy as np

from modeling_rogle.metrics.ranks import Ranking

NAMES = ("R@1", "mAP", "mINP", "R-precision", "nDCG@10")


def bootstrap(
    ranking: Ranking, person_ids: np.ndarray, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the metrics of `NAMES`.

    Args:
        ranking: the ranking of Q queries; queries without a positive are left out, as in the figures.
        person_ids: `[Q]` identity of each query.
        draws: number of bootstrap draws, 1000 by default. Each draws all identities with replacement.
        seed: seed of the draws, 0 by default.
        level: coverage of the interval, 0.95 by default.

    Returns:
        Lower and upper bound in percent by metric; empty if no query was scored.

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
    values = (ranking.first_rank == 1, ranking.average_precision, ranking.inverse_penalty, ranking.r_precision)
    values = (*values, ranking.ndcg)
    sums = np.stack([np.bincount(person, weights=value[scored].astype(np.float64)) for value in values], axis=1)
    # How often each draw contains each identity: one row per draw, so one product gives the sums of all draws.
    n = len(counts)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    means = 100 * (times @ sums) / (times @ counts)[:, None]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(NAMES)}
