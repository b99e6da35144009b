"""benchmarks/quality/joined_sentences.py: what is joined and scored, and bad input in one line."""

import random
from pathlib import Path

import pytest

from benchmarks.quality import joined_sentences
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.fusion import rank_captions
from modeling_rogle.evaluation.split_embeddings import encode_split

TEXTS = ["She has a red coat.", "Her shoes are white.", "A bag is on her arm."]


def test_neighbouring_sentences_are_joined() -> None:
    rng = random.Random(0)
    assert joined_sentences.join_sentences(TEXTS, 1, rng) == TEXTS
    pair, last = joined_sentences.join_sentences(TEXTS, 2, rng)
    assert pair.startswith("She has a red coat") and pair.endswith("her shoes are white.") and last == TEXTS[2]
    assert len(joined_sentences.join_sentences(TEXTS, 3, rng)) == 1


def test_clauses_of_own_sentences_have_the_scores_of_an_evaluation(
    tiny_model: RogleModel, tiny_processor: RogleProcessor
) -> None:
    rows = load_rows("synthetic-tiny")[0]["validation"].select(range(8))
    whole, clauses = joined_sentences.measure(tiny_model, tiny_processor, rows, sizes=(1,))
    split = encode_split(tiny_model, tiny_processor, rows, progress=False)
    expected = rank_captions(split, split.long, (1.0,))[0].scores()
    assert (clauses.r1, clauses.mean_ap) == pytest.approx((expected["R@1"], expected["mAP"]))
    assert whole.units == sum(map(len, rows["sentences"])) / 8 <= clauses.units
    table = joined_sentences.as_table([whole, clauses])
    assert table.count("\n") == 3 and "| whole sentences |" in table


def test_bad_input_is_one_line(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--split", "holdout"]
    assert joined_sentences.main(arguments) == 2
    assert "--split holdout: synthetic-tiny has" in capsys.readouterr().err
