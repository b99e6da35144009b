"""Encoding a split and its protocols, against plain loops over the same embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Split
from PIL import Image

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.protocols import (
    all_protocols,
    both_protocols,
    caption_similarities,
    encode_split,
    fit_local_weight,
    format_table,
    global_protocol,
    joint_protocol,
    local_protocol,
    ranked_queries,
)
from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.late_interaction import fuse
from modeling_rogle.templates import template_boxes

WIDTH, HEIGHT = 20, 44


def make_row(number: int, person: int, texts: list[str], regions: list[tuple], captions: list[str]) -> dict:
    """A P-VLG row with an image of noise; regions are (bbox, sentence, score)."""
    pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    sentences, at = [], 0
    for text in texts:
        sentences.append({"text": text, "start": at, "end": at + len(text)})
        at += len(text) + 1
    return {
        "image": Image.fromarray(pixels),
        "image_id": f"made/{number}",
        "width": WIDTH,
        "height": HEIGHT,
        "person_id": person,
        "captions": captions,
        "caption": " ".join(texts),
        "sentences": sentences,
        "regions": [
            {"bbox": [float(v) for v in box], "label": "bag", "sentence": sentence, "score": score}
            for box, sentence, score in regions
        ],
    }


HEAD, TRUNK, LEGS = (5, 0, 10, 9), (2, 9, 16, 17), (4, 24, 12, 20)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    red, white, hair = "A man wears a red jacket.", "His shoes are white.", "The woman has long brown hair."
    bag, green = "She carries a blue bag.", "A man in a green shirt is walking."
    return [
        make_row(0, 7, [red, white], [(TRUNK, 0, 1.0), (LEGS, 1, 1.0)], ["A man. His jacket is red.", white]),
        make_row(1, 7, [red, green], [(TRUNK, 0, 1.0), (TRUNK, 1, 1.0), (HEAD, -1, 1.0)], ["A red jacket."]),
        make_row(2, 8, [hair, bag], [(HEAD, 0, 0.2), (TRUNK, 0, 0.9)], ["A woman with a bag."]),
        make_row(3, 8, [hair], [(HEAD, 0, 1.0)], []),
        make_row(4, 9, [green, white, red], [(LEGS, 1, 1.0), (TRUNK, 2, 1.0)], ["A man in green."]),
    ]


@pytest.fixture(scope="module")
def model_and_processor(tiny_checkpoint: Path) -> tuple[RogleModel, RogleProcessor]:
    return RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def embeddings(model_and_processor, rows: list[dict]) -> SplitEmbeddings:
    return encode_split(*model_and_processor, rows, batch_size=2, progress=False, split="validation")


def test_every_embedding_is_that_of_its_own_image_and_text(model_and_processor, embeddings, rows) -> None:
    model, processor = model_and_processor
    model.eval()
    pixels = processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    boxes = processor.normalize_boxes([HEAD], WIDTH, HEIGHT)
    images, regions = model.encode_images(pixels, torch.from_numpy(boxes), torch.tensor([3]))
    torch.testing.assert_close(embeddings.image_embeds, images, rtol=0, atol=1e-5)
    assert embeddings.region_image.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4]  # row 1 speaks of one box twice
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


def test_batches_and_datasets_change_nothing(model_and_processor, embeddings, rows) -> None:
    model, processor = model_and_processor
    model.train()
    again = encode_split(model, processor, Dataset.from_list(rows, split=Split.TEST), batch_size=64, progress=False)
    assert model.training, "the training mode was not put back"
    assert again.split == "test"
    for name in ("image_embeds", "region_embeds", "template_embeds"):
        torch.testing.assert_close(getattr(again, name), getattr(embeddings, name), rtol=0, atol=1e-5)
    assert torch.equal(again.sentence_region, embeddings.sentence_region)


def slow_fused(embeddings: SplitEmbeddings, weight: float) -> np.ndarray:
    long = embeddings.long
    table = np.zeros((len(long.embeds), len(embeddings.image_embeds)), dtype=np.float64)
    for c in range(table.shape[0]):
        for i in range(table.shape[1]):
            whole = float(long.embeds[c].double() @ embeddings.image_embeds[i].double())
            best = [
                max(float(sentence.double() @ region.double()) for region in embeddings.template_embeds[i])
                for sentence in long.sentence_embeds[long.sentence_caption == c]
            ]
            table[c, i] = (1 - weight) * whole + weight * np.mean(best)
    return table


def slow_scores(similarity: np.ndarray, people: list[int]) -> tuple[float, float]:
    hits, precisions = [], []
    for c, row in enumerate(similarity):
        order = sorted(range(len(row)), key=lambda i: -row[i])
        ranks = [place for place, i in enumerate(order, 1) if people[i] == people[c]]
        hits.append(ranks[0] == 1)
        precisions.append(np.mean([n / place for n, place in enumerate(ranks, 1)]))
    return 100 * np.mean(hits), 100 * np.mean(precisions)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_global_protocol_equals_plain_loops(embeddings: SplitEmbeddings, weight: float) -> None:
    scores = global_protocol(embeddings, local_weight=weight)
    people = embeddings.image_person_ids.tolist()
    first, precision = slow_scores(slow_fused(embeddings, weight), people)
    assert (scores["R@1"], scores["mAP"]) == pytest.approx((first, precision))
    assert (scores["queries"], scores["gallery"]) == (5, 5)
    # The caption of another image of the same person is as right an answer as the image's own.
    reverse, _ = slow_scores(slow_fused(embeddings, weight).T, people)
    assert scores["i2t/R@1"] == pytest.approx(reverse)


def random_split(n: int, seed: int = 0) -> SplitEmbeddings:
    """A larger split of random embeddings: identities of two images, three sentences and two regions an image."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, 16, generator=generator), dim=-1)

    captions = CaptionSet(unit(n), torch.arange(n), unit(3 * n), torch.arange(n).repeat_interleave(3))
    boxes = torch.tensor([[2.0, 2, 10, 10], [4, 20, 12, 20]]).repeat(n, 1)
    texts = torch.arange(3 * n) % 4
    return SplitEmbeddings(
        split="validation",
        image_embeds=unit(n),
        image_person_ids=torch.arange(n) // 2,
        image_sizes=torch.tensor([[WIDTH, HEIGHT]]).repeat(n, 1),
        long=captions,
        short=captions,
        sentence_text_ids=texts,
        sentence_region=torch.tensor([0, 1, -1]).repeat(n)
        + torch.arange(n).repeat_interleave(3) * 2 * torch.tensor([1, 1, 0]).repeat(n),
        region_embeds=unit(2 * n),
        region_image=torch.arange(n).repeat_interleave(2),
        region_boxes=boxes,
        region_texts=torch.stack([torch.arange(2 * n), texts.reshape(n, 3)[:, :2].flatten()], dim=1),
        template_embeds=unit(n, len(template_boxes())),
        template_boxes=torch.from_numpy(template_boxes()),
    )


def test_late_interaction_in_blocks_equals_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling_rogle.evaluation.protocols.BLOCK_BYTES", 4 * 12 * 5 * 5)  # blocks of a few captions
    split = random_split(12)
    first, precision = slow_scores(slow_fused(split, 0.4), split.image_person_ids.tolist())
    scores = global_protocol(split, local_weight=0.4)
    assert (scores["R@1"], scores["mAP"]) == pytest.approx((first, precision))
    first, precision = slow_scores(slow_fused(split, 0.4).T, split.image_person_ids.tolist())
    assert (scores["i2t/R@1"], scores["i2t/mAP"]) == pytest.approx((first, precision))


def test_a_caption_without_sentences_keeps_its_global_similarity() -> None:
    split = random_split(6)
    kept = split.long.sentence_caption != 2
    bare = replace(
        split.long, sentence_embeds=split.long.sentence_embeds[kept], sentence_caption=split.long.sentence_caption[kept]
    )
    only_two = replace(bare, sentence_embeds=bare.sentence_embeds[:0], sentence_caption=bare.sentence_caption[:0])
    plain = global_protocol(split)
    fused = global_protocol(replace(split, long=only_two), local_weight=0.9)
    assert {name: plain[name] for name in fused} == pytest.approx(fused)
    assert global_protocol(replace(split, long=bare), local_weight=0.9)["queries"] == 6


def test_the_local_protocol_equals_plain_loops(embeddings: SplitEmbeddings, rows: list[dict]) -> None:
    split, image = embeddings, embeddings.long.image[embeddings.long.sentence_caption]
    people, target = split.image_person_ids, split.sentence_region
    said: list[set[str]] = []  # what the rows themselves say of each different box
    for row in rows:
        of_box: dict[tuple, set[str]] = {}
        for region in row["regions"]:
            words = {row["sentences"][region["sentence"]]["text"]} if region["sentence"] >= 0 else set()
            of_box.setdefault(tuple(region["bbox"]), set()).update(words)
        said += of_box.values()
    words = [sentence["text"] for row in rows for sentence in row["sentences"]]
    ranks, pointing = [], []
    for s in range(len(words)):
        if target[s] < 0:
            continue
        similarity = [float(split.long.sentence_embeds[s] @ region) for region in split.region_embeds]
        ahead = 0
        for r in range(len(similarity)):
            same_person = people[split.region_image[r]] == people[image[s]]
            if r != target[s] and not (same_person and words[s] in said[r]):
                ahead += similarity[r] >= similarity[target[s]]
        ranks.append(ahead + 1)
        best = int(np.argmax([float(split.long.sentence_embeds[s] @ t) for t in split.template_embeds[image[s]]]))
        x0, y0, x1, y1 = (split.template_boxes[best] * torch.tensor([WIDTH, HEIGHT] * 2)).tolist()
        x, y, w, h = split.region_boxes[target[s]].tolist()
        pointing.append(x <= (x0 + x1) / 2 <= x + w and y <= (y0 + y1) / 2 <= y + h)
    scores = local_protocol(split)
    assert scores["mAP"] == pytest.approx(100 * np.mean([1 / place for place in ranks]))
    assert scores["R@5"] == pytest.approx(100 * np.mean([place <= 5 for place in ranks]))
    assert scores["pointing"] == pytest.approx(100 * np.mean(pointing))
    assert (scores["queries"], scores["dropped_queries"], scores["gallery"], scores["grounded"]) == (8, 2, 9, 8)


def test_the_joint_protocol_equals_plain_loops(embeddings: SplitEmbeddings) -> None:
    split, long = embeddings, embeddings.long
    people, of_region = split.image_person_ids.tolist(), split.region_image.tolist()
    said: list[set[int]] = [set() for _ in of_region]
    for region, text in split.region_texts.tolist():
        said[region].add(text)
    gallery = torch.cat([split.image_embeds, split.region_embeds])
    n_images = len(split.image_embeds)
    person_of = people + [people[i] for i in of_region]

    def precision(query: torch.Tensor, right: set[int], ignored: set[int]) -> float:
        order = sorted(set(range(len(gallery))) - ignored, key=lambda g: -float(query @ gallery[g]))
        places = [place for place, g in enumerate(order, 1) if g in right]
        return float(np.mean([n / place for n, place in enumerate(places, 1)]))

    captions, sentences = [], []
    for c, image in enumerate(long.image.tolist()):
        right = {g for g in range(len(gallery)) if person_of[g] == people[image]}
        captions.append(precision(long.embeds[c], right, set()))
    for s, target in enumerate(split.sentence_region.tolist()):
        if target < 0:
            continue
        image, text = of_region[target], int(split.sentence_text_ids[s])
        right = {image, n_images + target}
        same = {g for g in range(len(gallery)) if person_of[g] == people[image]} - right
        ignored = {g for g in same if g < n_images or text in said[g - n_images]}
        sentences.append(precision(long.sentence_embeds[s], right, ignored))
    scores = joint_protocol(split)
    assert scores["caption/mAP"] == pytest.approx(100 * np.mean(captions))
    assert scores["sentence/mAP"] == pytest.approx(100 * np.mean(sentences))
    assert scores["mAP"] == pytest.approx(100 * np.mean(captions + sentences))
    assert (scores["queries"], scores["dropped_queries"], scores["gallery"]) == (13, 2, 14)


def test_lines_know_their_queries(embeddings: SplitEmbeddings) -> None:
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
        "joint": "mixed",
        "joint/caption": "long",
        "joint/sentence": "sentence",
    }
    sets = {"long": embeddings.long.image, "short": embeddings.short.image, "image": torch.arange(5)}
    sets["sentence"] = embeddings.long.image[embeddings.long.sentence_caption]
    for line in lines.values():
        assert len(line.ranking.n_positives) == len(line.image) == len(line.person_ids)
        assert line.person_ids.tolist() == embeddings.image_person_ids[line.image].tolist()
        if line.kind != "mixed":
            assert line.image.tolist() == sets[line.kind][line.query].tolist()
    flat = all_protocols(embeddings, 0.3)
    assert flat["joint/sentence/R@1"] == lines["joint/sentence"].scores()["R@1"]
    assert both_protocols(embeddings, 0.3) == {k: v for k, v in flat.items() if not k.startswith("joint")}
    assert set(ranked_queries(embeddings, protocols=["local"])) == {"local"}


def test_similarities_of_one_caption_are_those_it_is_ranked_by(embeddings: SplitEmbeddings) -> None:
    similarities = caption_similarities(embeddings, embeddings.long)
    slow = slow_fused(embeddings, 0.3)
    for c in range(5):
        np.testing.assert_allclose(fuse(*similarities(c, c + 1), 0.3)[0], slow[c], atol=1e-6)


def test_every_box_of_a_sentence_is_ignored_beside_its_target(model_and_processor, rows: list[dict]) -> None:
    split = encode_split(*model_and_processor, [rows[2], rows[4]], progress=False)
    assert split.sentence_region[:2].tolist() == [1, -1]  # the better scored of its two boxes
    hair = int(split.sentence_text_ids[0])
    assert split.region_texts[:2].tolist() == [[0, hair], [1, hair]]
    regions = split.region_embeds.clone()
    regions[0] = split.long.sentence_embeds[0]  # nothing can be more alike, and it shows what the sentence says
    regions[1] = torch.nn.functional.normalize(regions[0] + 0.01, dim=0)
    regions[2:] = -regions[0]
    only = replace(split, sentence_region=torch.tensor([1, -1, -1, -1, -1]), region_embeds=regions)
    assert local_protocol(only)["R@1"] == 100


def test_a_perfect_model_scores_all() -> None:
    split = random_split(8)
    people = torch.nn.functional.one_hot(split.image_person_ids, 16).float()
    target = split.sentence_region
    regions = torch.eye(16)  # 8 images, 2 regions each
    sentences = torch.where(target[:, None] >= 0, regions[target.clamp(min=0)], torch.full((16,), 0.1))
    captions = replace(split.long, embeds=people, sentence_embeds=sentences)
    split = replace(split, image_embeds=people, long=captions, short=captions, region_embeds=regions)
    results = both_protocols(split)
    for name in ("global/long/R@1", "global/long/mINP", "global/long/i2t/mAP", "global/short/mAP", "local/mAP"):
        assert results[name] == pytest.approx(100), name


def test_a_collapsed_model_scores_nothing() -> None:
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
    assert global_protocol(split)["R@1"] == 0
    assert global_protocol(split, local_weight=0.5)["R@1"] == 0
    assert local_protocol(split)["R@1"] == 0
    assert joint_protocol(split)["R@1"] == 0


def test_the_weight_is_the_best_of_the_table_and_ties_go_to_the_first() -> None:
    split = random_split(40)
    weight, table = fit_local_weight(split)
    assert [entry["local_weight"] for entry in table] == pytest.approx([0.05 * n for n in range(21)])
    best = max(entry["R@1"] + entry["mAP"] for entry in table)
    assert weight == next(entry["local_weight"] for entry in table if entry["R@1"] + entry["mAP"] == best)
    for entry in table[::5]:
        scores = global_protocol(split, local_weight=entry["local_weight"])
        assert (scores["R@1"], scores["mAP"]) == pytest.approx((entry["R@1"], entry["mAP"]))
    perfect = replace(split, template_embeds=torch.zeros_like(split.template_embeds))
    assert fit_local_weight(perfect, grid=(0.0, 0.2, 0.4))[0] == 0.0


def test_long_and_short_captions_count_alike_for_the_weight() -> None:
    split = replace(random_split(40), short=random_split(40, seed=1).long)
    both, (long, short) = (
        fit_local_weight(split)[1],
        (fit_local_weight(split, captions=[k])[1] for k in ("long", "short")),
    )
    for name in ("R@1", "mAP"):
        assert [entry[name] for entry in both] == pytest.approx(
            [(a[name] + b[name]) / 2 for a, b in zip(long, short, strict=True)]
        )
    none = replace(split.short, embeds=split.short.embeds[:0], image=split.short.image[:0])
    none = replace(none, sentence_embeds=none.sentence_embeds[:0], sentence_caption=none.sentence_caption[:0])
    assert fit_local_weight(replace(split, short=none))[1] == long
    with pytest.raises(ValueError, match="no short captions"):
        fit_local_weight(replace(split, short=none), captions=["short"])


@pytest.mark.parametrize("name", ["test", "Test", "test[:50%]", "train+test"])
def test_nothing_is_chosen_on_test(name: str) -> None:
    with pytest.raises(ValueError, match="for reporting, choose on validation"):
        fit_local_weight(replace(random_split(4), split=name))


def test_rows_without_regions_or_short_captions_are_said_to_be_unscored(model_and_processor, rows) -> None:
    bare = [row | {"regions": [], "captions": []} for row in rows]
    embeddings = encode_split(*model_and_processor, bare, progress=False)
    assert local_protocol(embeddings) == {}
    assert joint_protocol(embeddings) == {}
    assert global_protocol(embeddings, "short") == {}
    results = both_protocols(embeddings, local_weight=0.2)
    assert {key.rpartition("/")[0] for key in results} == {
        "global/long", "global/long/i2t", "global+local/long", "global+local/long/i2t",
    }  # fmt: skip
    assert "local: not scored" in format_table(results)
    assert "local, joint: not scored" in format_table(results, asked=("global", "local", "joint"))
    assert "not scored" not in format_table(results, asked=("global",))
    without = encode_split(*model_and_processor, rows, progress=False, regions="templates")
    assert local_protocol(without) == {}


def test_rows_without_a_caption_are_no_queries(model_and_processor, rows) -> None:
    wordless = rows[:-1] + [rows[-1] | {"caption": "", "sentences": [], "regions": []}]
    embeddings = encode_split(*model_and_processor, wordless, progress=False)
    scores = global_protocol(embeddings)
    assert (scores["queries"], scores["gallery"], scores["i2t/dropped_queries"]) == (4, 5, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "made/0: field 'image' is null"),
        ({"regions": [{"bbox": [30.0, 0.0, 5.0, 5.0], "sentence": 0, "score": 1.0}]}, "made/0: regions.bbox"),
        ({"regions": [{"bbox": [0.0, 0.0, 5.0, 5.0], "sentence": 9, "score": 1.0}]}, r"made/0: regions\[0\].sentence"),
    ],
)
def test_bad_rows_are_named(model_and_processor, rows, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_split(*model_and_processor, [rows[0] | change], progress=False)


def test_no_rows_and_bad_arguments(model_and_processor, rows) -> None:
    with pytest.raises(ValueError, match="no rows"):
        encode_split(*model_and_processor, [], progress=False)
    with pytest.raises(ValueError, match="regions"):
        encode_split(*model_and_processor, rows, regions="some")
    split = random_split(4)
    with pytest.raises(ValueError, match="captions"):
        global_protocol(split, captions="medium")
    with pytest.raises(ValueError, match="local_weight"):
        global_protocol(split, local_weight=1.5)
    with pytest.raises(ValueError, match="local_weight"):
        all_protocols(split, local_weight=-0.1)
    with pytest.raises(ValueError, match="protocol globel is not known; known are global, local, joint"):
        all_protocols(split, protocols=("globel",))
    with pytest.raises(ValueError, match="grid"):
        fit_local_weight(split, grid=(0.0, 2.0))


def test_the_table_is_markdown() -> None:
    lines = format_table(both_protocols(random_split(6), local_weight=0.2)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == [
        "global/long",
        "global/long/i2t",
        "global+local/long",
        "global+local/long/i2t",
        "global/short",
        "global/short/i2t",
        "global+local/short",
        "global+local/short/i2t",
        "local",
    ]


def test_intervals_stand_behind_their_figures() -> None:
    results = {"global/long/R@1": 50.0, "global/long/mAP": 40.0, "global/long/queries": 8}
    line = format_table(results, {"global/long": {"R@1": (41.234, 58.9)}}, asked=()).splitlines()[-1]
    assert "| 50.00 [41.2, 58.9] |" in line and "| 40.00 |" in line
