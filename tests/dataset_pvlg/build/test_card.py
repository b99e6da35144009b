"""Histograms and card of a build: every row counts once, in the right bin, and no example leaves its code block."""

import pytest

from dataset_pvlg.build.card import LICENCES, Histograms, card, count_parts, merge
from dataset_pvlg.readers.read import SOURCE_NAMES
from dataset_pvlg.readers.report import ReadReport


def row(words: int, sentences: int, *sides: tuple[float, float]) -> dict:
    return {
        "caption": "word " * words,
        "sentences": [{}] * sentences,
        "regions": [{"bbox": [0.0, 0.0, w, h]} for w, h in sides],
        "width": 100,
        "height": 200,
    }


def make_report(**changes) -> dict:
    histograms = Histograms()
    histograms.add([row(12, 2, (10, 20))])
    read = ReadReport("cuhk_pedes", records=3)
    read.skip("image missing", "```\n# evil")
    return {
        "sources": [read.as_dict()],
        "curation": None,
        "captioning": {},
        "matching": {},
        "splits": {"train": {"rows": 1, "identities": 1, "captions": 2, "sentences": 2, "regions": 1}},
        "histograms": histograms.as_dict(),
        "pictures": True,
        **changes,
    }


def test_values_on_an_edge_belong_to_the_bin_above():
    histograms = Histograms()
    histograms.add([row(9, 0), row(10, 5), row(199, 6), row(200, 15)])
    counts = histograms.as_dict()
    filled = {label: n for label, n in counts["caption, words"].items() if n}
    assert filled == {"0-9": 1, "10-19": 1, "150-199": 1, "200 or more": 1}
    assert {label: n for label, n in counts["sentences a row"].items() if n} == {
        "0": 1, "5": 1, "6-7": 1, "15 or more": 1,
    }  # fmt: skip
    assert "region, % of the image" not in counts and "caption, tokens" not in counts


def test_a_region_counts_by_its_share_of_the_image():
    histograms = Histograms()
    histograms.add([row(1, 1, (10, 19.9), (100, 199.99999), (100, 200.00001), (50, 80))])
    areas = histograms.as_dict()["region, % of the image"]
    assert {label: n for label, n in areas.items() if n} == {"0 to 1": 1, "20 to 30": 1, "100": 2}


def test_boxes_pairs_and_sentences_with_several_regions_are_counted_apart():
    first, second = [0.0, 0.0, 9.0, 9.0], [5.0, 0.0, 9.0, 9.0]
    pairs = [(first, 0), (first, 1), (second, 1), (second, -1), (second, 1)]
    regions = [{"bbox": box, "sentence": sentence} for box, sentence in pairs]
    rows = [row(1, 2) | {"captions": ["a"], "regions": regions}, row(1, 3) | {"captions": None, "regions": None}]
    counts = {"rows": 2, "captions": 1, "sentences": 5, "regions": 2, "pairs": 3, "sentences with several regions": 1}
    assert count_parts(rows) == counts
    text = card(make_report(splits={"train": counts}))
    assert "| split | rows | captions | sentences | regions | pairs | sentences with several regions |\n|---" in text
    assert "\n| train | 2 | 1 | 5 | 2 | 3 | 1 |\n" in text
    histograms = Histograms()
    histograms.add([row(1, 2) | {"regions": regions}])
    assert sum(histograms.as_dict()["region, % of the image"].values()) == 2


def test_tokens_are_the_tokenizers(tiny_processor):
    histograms = Histograms(tiny_processor.tokenizer)
    histograms.add([{**row(1, 1), "caption": "a man wears a red jacket " * 60}])
    counts = histograms.as_dict()["caption, tokens"]
    length = len(tiny_processor.tokenizer("a man wears a red jacket " * 60)["input_ids"])
    assert length > 249 and counts["249 or more"] == 1


def test_merging_sums_the_values_of_equal_keys():
    parts = [{"a": 1, "b": {"x": 1}}, {"b": {"x": 2, "y": 5}, "c": 3}]
    assert merge(parts) == {"a": 1, "b": {"x": 3, "y": 5}, "c": 3}
    assert parts == [{"a": 1, "b": {"x": 1}}, {"b": {"x": 2, "y": 5}, "c": 3}]


def test_an_example_cannot_leave_its_code_block():
    text = card(make_report())
    assert text.count("```") == 2 and "skipped: 1 x image missing, as '''" in text


@pytest.mark.parametrize(("names", "license"), [(["synthetic"], "apache-2.0"), (["synthetic", "cuhk_pedes"], "other")])
def test_every_source_has_its_terms(names, license):
    text = card(make_report(sources=[ReadReport(name).as_dict() for name in names]))
    assert f"\nlicense: {license}\n" in text
    assert all(f"| {name} | {LICENCES[name]} |" in text for name in names)
    assert set(SOURCE_NAMES) <= set(LICENCES)


def test_the_card_lists_every_step():
    curation = {"before": {"train": 9}, "after": {"train": 8}, "removed": {"train": {"too small": 1}}}
    captioning = {"train": {"rows": 8, "vlm": 5}, "test": {"rows": 2, "vlm": 2}}
    matching = {"train": {"assigned": 7, "sentences": 9}}
    text = card(make_report(curation=curation, captioning=captioning, matching=matching))
    assert "Curation kept 8 of 9 rows; 1 x too small." in text
    assert "A model wrote 7 of the 10 long captions" in text
    assert "found a region for 7 of 9 sentences" in text
