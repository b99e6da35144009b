"""The protocols over the embeddings of a split, against plain loops."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Split

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.box_ops import template_boxes
from modeling_rogle.evaluation.fusion import fit_local_weight
from modeling_rogle.evaluation.local_protocol import region_relevance
from modeling_rogle.evaluation.protocols import all_protocols, both_protocols, ranked_queries
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
from modeling_rogle.evaluation.tables import format_table
from tests.helpers.metrics import graded_by_loops, joint_by_loops
from tests.helpers.splits import (
    HEAD,
    HEIGHT,
    WIDTH,
    fused_by_loops,
    global_scores_of,
    line_scores,
    protocol_rows,
    random_split,
    rows_with_facts,
    scores_by_loops,
)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return protocol_rows()


@pytest.fixture(scope="module")
def model_and_processor(tiny_checkpoint: Path) -> tuple[RogleModel, RogleProcessor]:
    return RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def embeddings(model_and_processor, rows: list[dict]) -> SplitEmbeddings:
    return encode_split(*model_and_processor, rows, batch_size=2, progress=False, split="validation")


def test_every_embedding_is_that_of_its_own_image_and_text(model_and_processor, embeddings, rows: list[dict]) -> None:
    model, processor = model_and_processor
    model.eval()
    pixels = processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    boxes = processor.normalize_boxes([HEAD], WIDTH, HEIGHT)
    images, regions = model.encode_images(pixels, torch.from_numpy(boxes), torch.tensor([3]))
    torch.testing.assert_close(embeddings.image_embeds, images, rtol=0, atol=1e-5)
    assert embeddings.region_image.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4]  # row 1 has two sentences about one box
    torch.testing.assert_close(embeddings.region_embeds[6], regions[0], rtol=0, atol=1e-5)
    assert embeddings.region_boxes[6].tolist() == list(HEAD)
    assert embeddings.template_embeds.shape == (5, len(template_boxes()), 32)
    _, templates = model.encode_images(
        pixels[4:], torch.from_numpy(template_boxes()), torch.zeros(len(template_boxes())).long()
    )
    torch.testing.assert_close(embeddings.template_embeds[4], templates, rtol=0, atol=1e-5)

    def text(words: str) -> torch.Tensor:
        return model.encode_texts(**processor(text=[words], return_tensors="pt"))[0]

    for n, row in enumerate(rows):
        torch.testing.assert_close(embeddings.long.embeds[n], text(row["caption"]), rtol=0, atol=1e-5)
    assert embeddings.long.sentence_caption.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4, 4]
    torch.testing.assert_close(embeddings.long.sentence_embeds[5], text("She carries a blue bag."), rtol=0, atol=1e-5)
    assert embeddings.sentence_region.tolist() == [0, 1, 2, 2, 5, -1, 6, -1, 7, 8]
    ids = embeddings.sentence_text_ids.tolist()
    assert ids[0] == ids[2] == ids[9] and ids[4] == ids[6] and len(set(ids)) == 5
    assert embeddings.short.image.tolist() == [0, 0, 1, 2, 4]
    assert embeddings.short.sentence_caption.tolist() == [0, 0, 1, 2, 3, 4]
    torch.testing.assert_close(embeddings.short.sentence_embeds[1], text("His jacket is red."), rtol=0, atol=1e-5)


def test_batch_size_and_dataset_type_do_not_change_the_embeddings(model_and_processor, embeddings, rows) -> None:
    model, processor = model_and_processor
    model.train()
    again = encode_split(model, processor, Dataset.from_list(rows, split=Split.TEST), batch_size=64, progress=False)
    assert model.training, "the training mode was not restored"
    assert again.split == "test"
    for name in ("image_embeds", "region_embeds", "template_embeds"):
        torch.testing.assert_close(getattr(again, name), getattr(embeddings, name), rtol=0, atol=1e-5)
    assert torch.equal(again.sentence_region, embeddings.sentence_region)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_global_protocol_equals_plain_loops(embeddings: SplitEmbeddings, weight: float) -> None:
    scores = global_scores_of(embeddings, weight=weight)
    people = embeddings.image_person_ids.tolist()
    first, precision = scores_by_loops(fused_by_loops(embeddings, weight), people)
    assert (scores["R@1"], scores["mAP"]) == pytest.approx((first, precision))
    assert (scores["queries"], scores["gallery"]) == (5, 5)
    # The caption of another image of the same person is as right an answer as the image's own.
    reverse, _ = scores_by_loops(fused_by_loops(embeddings, weight).T, people)
    assert scores["i2t/R@1"] == pytest.approx(reverse)


def test_the_strict_local_protocol_equals_plain_loops(embeddings: SplitEmbeddings, rows: list[dict]) -> None:
    split, image = embeddings, embeddings.long.image[embeddings.long.sentence_caption]
    people, target = split.image_person_ids, split.sentence_region
    box_texts: list[set[str]] = []  # the sentences of each distinct box in the rows
    for row in rows:
        of_box: dict[tuple, set[str]] = {}
        for region in row["regions"]:
            words = {row["sentences"][region["sentence"]]["text"]} if region["sentence"] >= 0 else set()
            of_box.setdefault(tuple(region["bbox"]), set()).update(words)
        box_texts += of_box.values()
    words = [sentence["text"] for row in rows for sentence in row["sentences"]]
    ranks = []
    for s in range(len(words)):
        if target[s] < 0:
            continue
        similarity = [float(split.long.sentence_embeds[s] @ region) for region in split.region_embeds]
        ahead = 0
        for r in range(len(similarity)):
            same_person = people[split.region_image[r]] == people[image[s]]
            if r != target[s] and not (same_person and words[s] in box_texts[r]):
                ahead += similarity[r] >= similarity[target[s]]
        ranks.append(ahead + 1)
    scores = line_scores(split, "local-strict")
    assert scores["mAP"] == pytest.approx(100 * np.mean([1 / rank for rank in ranks]))
    assert scores["R@5"] == pytest.approx(100 * np.mean([rank <= 5 for rank in ranks]))
    assert (scores["queries"], scores["dropped_queries"], scores["gallery"]) == (8, 2, 9)


def grades_by_facts(rows: list[dict]) -> dict[tuple[int, int], int]:
    """Grades of the regions for each sentence, from the rows and the contract of `claims` in plain words."""
    regions = []  # person, image, box, facts, own sentences of its image
    for n, row in enumerate(rows):
        for box in dict.fromkeys(tuple(region["bbox"]) for region in row["regions"]):
            entries = [region for region in row["regions"] if tuple(region["bbox"]) == box]
            facts = {fact for region in entries for fact in region["attributes"]}
            regions.append((row["person_id"], n, facts, {region["sentence"] for region in entries}))
    grades, sentence = {}, 0
    for n, row in enumerate(rows):
        for number, groups in enumerate(row["claims"]):
            for r, (person, image, facts, own) in enumerate(regions):
                inside = [other[2] for other in regions if other[1] == image]
                possible = any(
                    all(set(group) <= found for group, found in zip(groups, chosen, strict=True))
                    for chosen in permutations(inside, len(groups))
                )
                if image == n and number in own:
                    grades[sentence, r] = 3
                elif groups and possible and any(set(group) <= facts for group in groups):
                    grades[sentence, r] = 2 if person == row["person_id"] else 1
            sentence += 1
    return grades


def grades_by_labels(rows: list[dict], words: list[list[str]]) -> dict[tuple[int, int], int]:
    """The same without facts; `words` are the colours and garments of each sentence."""
    texts = [(row["person_id"], sentence["text"]) for row in rows for sentence in row["sentences"]]
    named = {text: set(found) for (_, text), found in zip(texts, words, strict=True)}
    regions = []  # person, sentences, label
    own = set()
    first = 0
    for row in rows:
        for box in dict.fromkeys(tuple(region["bbox"]) for region in row["regions"]):
            entries = [region for region in row["regions"] if tuple(region["bbox"]) == box]
            numbers = [region["sentence"] for region in entries if region["sentence"] >= 0]
            own |= {(first + number, len(regions)) for number in numbers}
            regions.append((row["person_id"], {row["sentences"][n]["text"] for n in numbers}, entries[0]["label"]))
        first += len(row["sentences"])
    grades = {}
    for s, (person, text) in enumerate(texts):
        labels = {regions[r][2] for q, r in own if q == s}
        for r, (other, described, label) in enumerate(regions):
            facts = set().union(*(named[sentence] for sentence in described))
            if (s, r) in own:
                grades[s, r] = 3
            elif person == other and (label in labels or (labels and text in described)):
                grades[s, r] = 2
            elif (labels and text in described) or (named[text] and named[text] <= facts):
                grades[s, r] = 0
    return grades


def within_and_grounding_by_loops(split: SplitEmbeddings, grades: dict[tuple[int, int], int]) -> dict[str, float]:
    image = split.long.image[split.long.sentence_caption].tolist()
    hits, pointing = [], []
    for s, own_image in enumerate(image):
        inside = [r for r, other in enumerate(split.region_image.tolist()) if other == own_image]
        inside = [r for r in inside if grades.get((s, r)) != 0]
        relevant = [r for r in inside if grades.get((s, r), 0) > 0]
        if not relevant:
            continue
        embed = split.long.sentence_embeds[s]
        hits.append(max(inside, key=lambda r: float(embed @ split.region_embeds[r])) in relevant)  # noqa: B023
        best = int(np.argmax([float(embed @ template) for template in split.template_embeds[own_image]]))
        x0, y0, x1, y1 = (split.template_boxes[best] * torch.tensor([WIDTH, HEIGHT] * 2)).tolist()
        boxes = split.region_boxes[relevant].tolist()
        pointing.append(any(x <= (x0 + x1) / 2 <= x + w and y <= (y0 + y1) / 2 <= y + h for x, y, w, h in boxes))
    return {"within-R@1": 100 * np.mean(hits), "pointing": 100 * np.mean(pointing), "grounded": len(hits)}


def assert_local_equals(split: SplitEmbeddings, grades: dict[tuple[int, int], int]) -> None:
    expected = graded_by_loops((split.long.sentence_embeds @ split.region_embeds.T).numpy(), grades)
    expected |= within_and_grounding_by_loops(split, grades)
    scores = line_scores(split, "local")
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_the_local_protocol_by_facts_equals_plain_loops(model_and_processor) -> None:
    rows = rows_with_facts()
    split = encode_split(*model_and_processor, rows, batch_size=2, progress=False)
    grades = grades_by_facts(rows)
    assert split.facts_known and {1, 2, 3} == set(grades.values())
    assert_local_equals(split, grades)


def test_without_facts_labels_decide(embeddings: SplitEmbeddings, rows: list[dict]) -> None:
    words = [["jacket", "red"], ["shoes", "white"], ["jacket", "red"], ["green", "shirt"], ["brown", "hair"],
             ["bag", "blue"], ["brown", "hair"], ["green", "shirt"], ["shoes", "white"], ["jacket", "red"]]  # fmt: skip
    assert not embeddings.facts_known
    grades = grades_by_labels(rows, words)
    assert {0, 2, 3} == set(grades.values())
    assert_local_equals(embeddings, grades)


@pytest.mark.parametrize("facts", [True, False])
def test_the_joint_protocol_equals_plain_loops(model_and_processor, facts: bool) -> None:
    rows = rows_with_facts() if facts else protocol_rows()
    split = encode_split(*model_and_processor, rows, batch_size=2, progress=False)
    relevance = region_relevance(split)
    sentence_rows, columns, values = relevance(0, len(split.sentence_region))
    long, people, of_region = split.long, split.image_person_ids.tolist(), split.region_image.tolist()
    image_of_sentence = long.image[long.sentence_caption].tolist()
    n_images, n_captions = len(split.image_embeds), len(long.embeds)
    table = [[n_captions + s, n_images + r, grade] for s, r, grade in zip(sentence_rows, columns, values, strict=True)]
    if not facts:
        table += [[n_captions + s, i, 0] for s, own in enumerate(image_of_sentence) for i in range(n_images)
                  if people[i] == people[own]]  # fmt: skip
    gallery = torch.cat([split.image_embeds, split.region_embeds])
    world = {
        "query_embeds": (torch.cat([long.embeds, long.sentence_embeds]) @ gallery.T).numpy(),
        "query_person_ids": [people[i] for i in long.image.tolist() + image_of_sentence],
        "query_kind": [0] * n_captions + [1] * len(image_of_sentence),
        "gallery_kind": [0] * n_images + [1] * len(of_region),
        "gallery_person_ids": people + [people[i] for i in of_region],
        "parent_image_ids": [*range(n_images), *of_region],
        "relevance": table,
    }
    assert line_scores(split, "joint") == pytest.approx({
        name: value for name, value in joint_by_loops(world).items() if name != "gallery"
    } | {"caption/gallery": 14, "sentence/gallery": 14})  # fmt: skip


def test_each_line_has_the_indices_of_its_queries(embeddings: SplitEmbeddings) -> None:
    lines = ranked_queries(embeddings, local_weight=0.3)
    assert {name: line.kind for name, line in lines.items()} == {
        "global/long": "long",
        "global/long/i2t": "image",
        "global+local/long": "long",
        "global+local/long/i2t": "image",
        "global/short": "short",
        "global/short/i2t": "image",
        "global+local/short": "short",
        "global+local/short/i2t": "image",
        "local": "sentence",
        "local-strict": "sentence",
        "joint/caption": "long",
        "joint/sentence": "sentence",
    }
    sets = {"long": embeddings.long.image, "short": embeddings.short.image, "image": torch.arange(5)}
    sets["sentence"] = embeddings.long.image[embeddings.long.sentence_caption]
    for line in lines.values():
        assert len(line.ranking.n_positives) == len(line.image) == len(line.person_ids)
        assert line.person_ids.tolist() == embeddings.image_person_ids[line.image].tolist()
        assert line.image.tolist() == sets[line.kind][line.query].tolist()
    flat = all_protocols(embeddings, 0.3)
    assert flat["joint/sentence/R@1"] == lines["joint/sentence"].scores()["R@1"]
    assert both_protocols(embeddings, 0.3) == {
        name: value for name, value in flat.items() if not name.startswith(("joint", "local-strict"))
    }
    assert set(ranked_queries(embeddings, protocols=["local"])) == {"local"}
    assert set(ranked_queries(embeddings, protocols=["local-strict"])) == {"local-strict"}


def test_other_boxes_of_a_sentence_are_ignored(model_and_processor, rows: list[dict]) -> None:
    split = encode_split(*model_and_processor, [rows[2], rows[4]], progress=False)
    assert split.sentence_region[:2].tolist() == [1, -1]  # the box with the higher score of its two
    hair = int(split.sentence_text_ids[0])
    assert split.region_texts[:2].tolist() == [[0, hair], [1, hair]]
    regions = split.region_embeds.clone()
    regions[0] = split.long.sentence_embeds[0]  # the highest similarity, and the sentence describes it too
    regions[1] = torch.nn.functional.normalize(regions[0] + 0.01, dim=0)
    regions[2:] = -regions[0]
    only = replace(split, sentence_region=torch.tensor([1, -1, -1, -1, -1]), region_embeds=regions)
    assert line_scores(only, "local-strict")["R@1"] == 100


def test_a_perfect_model_scores_100() -> None:
    split = random_split(8)
    people = torch.nn.functional.one_hot(split.image_person_ids, 16).float()
    target = split.sentence_region
    regions = torch.eye(16)  # 8 images, 2 regions each
    sentences = torch.where(target[:, None] >= 0, regions[target.clamp(min=0)], torch.full((16,), 0.1))
    captions = replace(split.long, embeds=people, sentence_embeds=sentences)
    split = replace(split, image_embeds=people, long=captions, short=captions, region_embeds=regions)
    results = both_protocols(split)
    for name in ("global/long/R@1", "global/long/mINP", "global/long/i2t/mAP", "global/short/mAP", "local/R@1"):
        assert results[name] == pytest.approx(100), name
    assert line_scores(split, "local-strict")["mAP"] == pytest.approx(100)


def test_a_collapsed_model_has_r1_of_0() -> None:
    split = random_split(10)
    one = torch.nn.functional.normalize(torch.ones(16), dim=0)
    captions = replace(split.long, embeds=one.expand(10, 16), sentence_embeds=one.expand(30, 16))
    split = replace(
        split,
        image_embeds=one.expand(10, 16).contiguous(),
        long=captions,
        region_embeds=one.expand(20, 16).contiguous(),
        template_embeds=one.expand(10, len(template_boxes()), 16).contiguous(),
    )
    assert global_scores_of(split)["R@1"] == 0
    assert global_scores_of(split, weight=0.5)["R@1"] == 0
    assert line_scores(split, "local")["R@1"] == line_scores(split, "local")["within-R@1"] == 0
    assert line_scores(split, "joint")["caption/R@1"] == line_scores(split, "joint")["sentence/R@1"] == 0


def test_lines_that_cannot_be_scored_are_missing(model_and_processor, rows) -> None:
    bare = [row | {"regions": [], "captions": []} for row in rows]
    embeddings = encode_split(*model_and_processor, bare, progress=False)
    assert line_scores(embeddings, "local") == {}
    assert line_scores(embeddings, "joint") == {}
    assert line_scores(embeddings, "global/short") == {}
    results = both_protocols(embeddings, local_weight=0.2)
    assert {key.rpartition("/")[0] for key in results} == {
        "global/long", "global/long/i2t", "global+local/long", "global+local/long/i2t",
    }  # fmt: skip
    assert "local: not scored" in format_table(results)
    assert "local, joint: not scored" in format_table(results, protocols=("global", "local", "joint"))
    assert "not scored" not in format_table(results, protocols=("global",))
    without = encode_split(*model_and_processor, rows, progress=False, regions="templates")
    assert line_scores(without, "local") == {}


def test_rows_without_a_caption_are_no_queries(model_and_processor, rows) -> None:
    wordless = rows[:-1] + [rows[-1] | {"caption": "", "sentences": [], "regions": []}]
    embeddings = encode_split(*model_and_processor, wordless, progress=False)
    scores = global_scores_of(embeddings)
    assert (scores["queries"], scores["gallery"], scores["i2t/dropped_queries"]) == (4, 5, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "made/0: field 'image' is null"),
        ({"regions": [{"bbox": [30.0, 0.0, 5.0, 5.0], "sentence": 0, "score": 1.0}]}, "made/0: regions.bbox"),
        ({"regions": [{"bbox": [0.0, 0.0, 5.0, 5.0], "sentence": 9, "score": 1.0}]}, r"made/0: regions\[0\].sentence"),
        ({"claims": [[]]}, "made/0: field 'claims' has 1 entries for 2 sentences"),
        ({"claims": [[[]], []]}, r"made/0: claims\[0\] has a group without facts"),
        ({"claims": [[], [["color=red"]] * 9]}, r"made/0: claims\[1\] has 9 groups, at most 8"),
    ],
)
def test_bad_rows_are_named(model_and_processor, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_split(*model_and_processor, [rows_with_facts()[0] | change], progress=False)


def test_no_rows_and_bad_arguments(model_and_processor, rows) -> None:
    with pytest.raises(ValueError, match="no rows"):
        encode_split(*model_and_processor, [], progress=False)
    with pytest.raises(ValueError, match="regions"):
        encode_split(*model_and_processor, rows, regions="some")
    split = random_split(4)
    with pytest.raises(ValueError, match="captions"):
        split.captions("medium")
    with pytest.raises(ValueError, match="local_weight"):
        all_protocols(split, local_weight=1.5)
    with pytest.raises(ValueError, match="local_weight"):
        all_protocols(split, local_weight=-0.1)
    with pytest.raises(ValueError, match="protocol globel is not known; known are global, local, local-strict, joint"):
        all_protocols(split, protocols=("globel",))
    with pytest.raises(ValueError, match="grid"):
        fit_local_weight(split, grid=(0.0, 2.0))
