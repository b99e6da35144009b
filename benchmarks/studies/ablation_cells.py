"""Cells of the ablation: which training runs each study needs."""

from collections.abc import Sequence
from pathlib import Path

RELIABILITY = {  # kind of pair: flags of the reliability that was chosen for it
    "region-sentence": ["--reliability-local", "places"],
    "image-caption": ["--reliability-global", "identity"],
}
TERMS = {  # row: flags
    "global only": ["--regions", "none"],
    "+ local contrastive": ["--tsl-text-weight", "0"],
    "+ TSL": [],
    "+ reliability": RELIABILITY["region-sentence"],
}
DEFAULTS, FULL = "+ TSL", "full"  # the same checkpoints; `full` adds late interaction in evaluation
KINDS = ("none", "gmm_consensus", "places", "identity")  # each of the last two is for one kind of pair
UNSUITED_KINDS = {"region-sentence": ("none", "identity"), "image-caption": ("none", "places")}
SHUFFLES = {"region-sentence": "--shuffle-sentences", "image-caption": "--shuffle-captions"}
SHARES = (0, 20, 50)  # % of shuffled pairs
FEATURES = ("patch_mean", "dense_roi")
# These are no flags of train.py. COPIES: the data include edited images. PRETRAINED: the cell fine-tunes a model that
# was trained on other identities. Both are parts of the names of cells on disk.
COPIES, PRETRAINED = "--copies", "--learnt"
STARTS = {"region-sentence": ([], [PRETRAINED]), "image-caption": ([PRETRAINED],)}  # of the study of noise
EDITED_IMAGES = {
    "defaults": [],
    "edited images": [COPIES],
    "edited images as in-batch hard negatives": [COPIES, "--images-per-identity", "2"],
}
STUDIES = ("terms", "reliability", "noise", "features", "edited-images")


def cells(studies: Sequence[str], seeds: Sequence[int]) -> dict[str, list[str]]:
    """Name of every cell -> its flags. Cells that two studies share occur once.

    `reliability` and `features` use the first seed only.

    Args:
        studies: names of `STUDIES`.
        seeds: of the training runs.
    """
    named: dict[str, list[str]] = {}

    def add(flags: Sequence[str], seed: int) -> None:
        named[cell_name(flags, seed)] = [*flags, "--seed", str(seed)]

    if "reliability" in studies:
        for pairs in SHUFFLES:
            for kind in KINDS:
                add(reliability_flags(pairs, kind), seeds[0])
    if "features" in studies:
        for feature in FEATURES[1:]:
            add(["--region-feature", feature], seeds[0])
    for seed in seeds:
        if "terms" in studies:
            for flags in TERMS.values():
                add(flags, seed)
        if "edited-images" in studies:
            for flags in EDITED_IMAGES.values():
                add(flags, seed)
        if "noise" in studies:
            for pairs, reliability in RELIABILITY.items():
                for flags in ([*start, *shuffle_flags(pairs, share)] for start in STARTS[pairs] for share in SHARES):
                    add(flags, seed)
                    add([*flags, *reliability], seed)
    return named


def shuffle_flags(pairs: str, share: int) -> list[str]:
    """Flags that shuffle a share, in percent, of a kind of pair."""
    return [SHUFFLES[pairs], f"{share / 100:g}"] if share else []


def reliability_flags(pairs: str, kind: str) -> list[str]:
    """Flags of a cell of the study `reliability`: half of the pairs shuffled, from a pre-trained model."""
    side = "--reliability-local" if pairs == "region-sentence" else "--reliability-global"
    return [PRETRAINED, *shuffle_flags(pairs, 50), *([side, kind] if kind not in UNSUITED_KINDS[pairs] else [])]


def cell_name(flags: Sequence[str], seed: int) -> str:
    words = [flag.lstrip("-") for flag in flags] or ["defaults"]
    return "_".join([*words, f"seed-{seed}"])


def cell_folder(out: Path, flags: Sequence[str], seed: int) -> Path:
    return out / "cells" / cell_name(flags, seed)


__all__ = [
    "COPIES", "DEFAULTS", "EDITED_IMAGES", "FEATURES", "FULL", "KINDS", "PRETRAINED", "RELIABILITY", "SHARES",
    "SHUFFLES", "STARTS", "STUDIES", "TERMS", "UNSUITED_KINDS", "cell_folder", "cell_name", "cells",
    "reliability_flags", "shuffle_flags",
]  # fmt: skip
