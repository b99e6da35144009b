"""Late interaction of long captions whose sentences are about several parts of a person.

    python -m benchmarks.quality.joined_sentences --model runs/small/best --dataset synthetic --split validation

Such sentences are made by joining neighbouring sentences of each caption. Captions rank images by the local similarity
alone (local weight 1). The table compares whole sentences with their clauses, which a search scores.
"""

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.common.tables import format_table
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.fusion import rank_captions
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split, without_images
from modeling_rogle.sentences import split_clauses

SIZES = (1, 2, 3)  # sentences that are joined into one
JOINTS = (" and ", ", and ", ", ", " while ", ", with ")
TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Score:
    """R@1 and mAP in percent of one kind of sentences.

    Attributes:
        joined: number of sentences that are joined into one.
        clauses: whether their clauses are scored, or the sentences as a whole.
        units: mean number of scored texts in a caption.
        r1: R@1 by identity.
        mean_ap: mAP by identity.
    """

    joined: int
    clauses: bool
    units: float
    r1: float
    mean_ap: float


def join_sentences(sentences: Sequence[str], size: int, rng: random.Random) -> list[str]:
    """Joins each `size` neighbouring sentences into one by a comma, "and", "while" or "with"; 1 changes nothing."""
    joined = []
    for start in range(0, len(sentences), size):
        first, *others = sentences[start : start + size]
        for other in others:
            first = first.rstrip(".") + rng.choice(JOINTS) + other[:1].lower() + other[1:]
        joined.append(first)
    return joined


def measure(
    model: RogleModel, processor: RogleProcessor, rows: Any, sizes: Sequence[int] = SIZES, progress: bool = False
) -> list[Score]:
    """Scores of whole and of split sentences.

    Args:
        model: a model whose local branch is trained.
        processor: the model's processor.
        rows: P-VLG rows with long captions.
        sizes: numbers of sentences that are joined into one; 1, 2 and 3 by default.
        progress: show progress bars, off by default.
    """
    split = encode_split(model, processor, rows, progress=progress, regions="templates")
    captions = [row for row in without_images(rows) if row["caption"] and row["sentences"]]
    return [_score(model, processor, split, captions, size, clauses) for size in sizes for clauses in (False, True)]


def _score(
    model: RogleModel,
    processor: RogleProcessor,
    split: SplitEmbeddings,
    rows: Sequence[Mapping[str, Any]],
    size: int,
    clauses: bool,
) -> Score:
    rng, units = random.Random(0), []
    for row in rows:
        joined = join_sentences([sentence["text"] for sentence in row["sentences"]], size, rng)
        units.append([clause for text in joined for clause, _, _ in split_clauses(text)] if clauses else joined)
    texts = sorted({text for listed in units for text in listed}, key=len)
    embeds: dict[str, torch.Tensor] = {}
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        encoded = model.encode_texts(processor(text=part, return_tensors="pt")["input_ids"].to(model.device))
        embeds.update(zip(part, encoded.cpu(), strict=True))
    owner = torch.arange(len(units)).repeat_interleave(torch.tensor([len(listed) for listed in units]))
    found = torch.stack([embeds[text] for listed in units for text in listed])
    (ranking,) = rank_captions(split, replace(split.long, clause_embeds=found, clause_caption=owner), (1.0,))
    scores = ranking.scores()
    return Score(size, clauses, len(found) / len(units), scores["R@1"], scores["mAP"])


def as_table(scores: Sequence[Score]) -> str:
    """A Markdown table with one row for each score."""
    rows = [
        [
            str(s.joined),
            "clauses" if s.clauses else "whole sentences",
            f"{s.units:.1f}",
            f"{s.r1:.1f}",
            f"{s.mean_ap:.1f}",
        ]
        for s in scores
    ]
    return format_table(["sentences joined into one", "scored", "texts a caption", "long R@1", "mAP"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.joined_sentences",
        description="Late interaction of sentences about several parts of a person.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a Rogle model (required)")
    parser.add_argument("--dataset", default="synthetic", metavar="NAME", help="P-VLG data set (default: synthetic)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data set's files (default: none)")
    parser.add_argument("--split", default="validation", help="split to measure on (default: validation)")
    args = parser.parse_args(argv)
    try:
        splits, _ = load_rows(args.dataset, args.data_root)
        if args.split not in splits:
            raise ValueError(f"--split {args.split}: {args.dataset} has {', '.join(splits)}")
        model, processor = RogleModel.from_pretrained(args.model).eval(), RogleProcessor.from_pretrained(args.model)
        scores = measure(model, processor, splits[args.split], progress=sys.stderr.isatty())
    except (ValueError, OSError) as error:
        print(f"joined_sentences: {error}", file=sys.stderr)
        return 2
    print(as_table(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
