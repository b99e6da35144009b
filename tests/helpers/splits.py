"""Rows and random embeddings of small splits, and their scores by plain loops."""

from dataclasses import fields

import numpy as np
import torch
from PIL import Image

from modeling_rogle.box_ops import template_boxes
from modeling_rogle.evaluation.protocols import all_protocols
from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings

WIDTH, HEIGHT = 20, 44
HEAD, TRUNK, LEGS = (5, 0, 10, 9), (2, 9, 16, 17), (4, 24, 12, 20)
TEXTS = ("A man wears a red jacket.", "His shoes are white.", "She carries a blue bag.", "A man in a green shirt.")


def make_row(number: int, person: int, texts: list[str], regions: list[tuple], captions: list[str]) -> dict:
    """A P-VLG row with an image of noise; regions are (bbox, sentence, score)."""
    pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    sentences, position = [], 0
    for text in texts:
        sentences.append({"text": text, "start": position, "end": position + len(text)})
        position += len(text) + 1
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


def protocol_rows() -> list[dict]:
    red, white, hair = "A man wears a red jacket.", "His shoes are white.", "The woman has long brown hair."
    bag, green = "She carries a blue bag.", "A man in a green shirt is walking."
    return [
        make_row(0, 7, [red, white], [(TRUNK, 0, 1.0), (LEGS, 1, 1.0)], ["A man. His jacket is red.", white]),
        make_row(1, 7, [red, green], [(TRUNK, 0, 1.0), (TRUNK, 1, 1.0), (HEAD, -1, 1.0)], ["A red jacket."]),
        make_row(2, 8, [hair, bag], [(HEAD, 0, 0.2), (TRUNK, 0, 0.9)], ["A woman with a bag."]),
        make_row(3, 8, [hair], [(HEAD, 0, 1.0)], []),
        make_row(4, 9, [green, white, red], [(LEGS, 1, 1.0), (TRUNK, 2, 1.0)], ["A man in green."]),
    ]


def random_split(n: int, seed: int = 0) -> SplitEmbeddings:
    """A larger split of random embeddings: two images per identity, three sentences and two regions per image."""
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
        own_regions=torch.stack([(torch.arange(3 * n) % 3 < 2).nonzero()[:, 0], torch.arange(2 * n)], dim=1),
        region_labels=torch.arange(2 * n) % 2,
        claims=torch.zeros(0, 3).long(),
        region_facts=torch.zeros(0, 2).long(),
        facts_known=torch.tensor(False),
    )


def rows_with_facts() -> list[dict]:
    """`protocol_rows` with attributes and claims, which say other things than the captions do."""
    facts = {
        (0, TRUNK): ["kind=jacket", "color=red"],
        (0, LEGS): ["kind=trousers", "color=red"],
        (1, TRUNK): ["kind=jacket", "color=red"],
        (1, HEAD): ["kind=hat", "color=blue"],
        (2, HEAD): ["kind=hair", "color=brown"],
        (2, TRUNK): ["kind=jacket", "color=blue"],
        (3, HEAD): ["kind=hat", "color=red"],
        (4, LEGS): ["kind=trousers", "color=red"],
        (4, TRUNK): ["kind=jacket", "color=red"],
    }
    claims = [
        [[["kind=jacket", "color=red"]], [["color=red"]]],
        [[["kind=jacket"]], [["kind=jacket"], ["kind=hat"]]],
        [[["kind=hair"], ["kind=jacket"]], []],
        [[["kind=hat", "color=red"]]],
        [[["kind=trousers"], ["color=red"]], [["kind=trousers"]], [["kind=jacket"]]],
    ]
    return [
        row | {"claims": claims[n], "regions": [
            region | {"attributes": facts[n, tuple(map(int, region["bbox"]))]} for region in row["regions"]
        ]}
        for n, row in enumerate(protocol_rows())
    ]  # fmt: skip


def fused_by_loops(embeddings: SplitEmbeddings, weight: float) -> np.ndarray:
    long = embeddings.long
    table = np.zeros((len(long.embeds), len(embeddings.image_embeds)), dtype=np.float64)
    for c in range(table.shape[0]):
        for i in range(table.shape[1]):
            global_score = float(long.embeds[c].double() @ embeddings.image_embeds[i].double())
            best = [
                max(float(sentence.double() @ region.double()) for region in embeddings.template_embeds[i])
                for sentence in long.sentence_embeds[long.sentence_caption == c]
            ]
            table[c, i] = (1 - weight) * global_score + weight * np.mean(best)
    return table


def scores_by_loops(similarity: np.ndarray, people: list[int]) -> tuple[float, float]:
    hits, precisions = [], []
    for c, row in enumerate(similarity):
        order = sorted(range(len(row)), key=lambda i: -row[i])
        ranks = [rank for rank, i in enumerate(order, 1) if people[i] == people[c]]
        hits.append(ranks[0] == 1)
        precisions.append(np.mean([n / rank for n, rank in enumerate(ranks, 1)]))
    return 100 * np.mean(hits), 100 * np.mean(precisions)


def line_scores(embeddings: SplitEmbeddings, line: str, weight: float = 0.0) -> dict[str, float]:
    """The figures of one line of the results, and of the lines below it as `<line>/<metric>`."""
    protocol = line.partition("/")[0].partition("+")[0]
    results = all_protocols(embeddings, weight, (protocol,))
    return {name.removeprefix(f"{line}/"): value for name, value in results.items() if name.startswith(f"{line}/")}


def global_scores_of(embeddings: SplitEmbeddings, weight: float = 0.0) -> dict[str, float]:
    """The figures of long captions in the global protocol, fused if there is a weight."""
    return line_scores(embeddings, "global+local/long" if weight else "global/long", weight)


def numbered_row(n: int) -> dict:
    """Row n of a split with two images per identity, in which every fifth row has no long caption."""
    pixels = np.random.default_rng(n).integers(0, 255, (44, 20, 3), dtype=np.uint8)
    texts = [TEXTS[n % 4], TEXTS[(n + 1) % 4]] if n % 5 != 4 else []
    region = {"label": "head", "score": 1.0, "reliability": 1.0, "origin": "human"}
    return {
        "image": Image.fromarray(pixels),
        "image_id": f"made/{n}",
        "width": 20,
        "height": 44,
        "person_id": n // 2,
        "captions": [TEXTS[n % 3]] * (n % 3),
        "caption": " ".join(texts),
        "sentences": [{"text": text, "start": 0, "end": len(text)} for text in texts],
        "regions": [region | {"bbox": [2.0, 2.0 + n, 9.0, 9.0], "sentence": 0}] if texts and n % 2 else [],
    }


def tensors_of(embeddings: SplitEmbeddings) -> dict[str, torch.Tensor]:
    """All tensors of a split by name."""
    tensors = {}
    for field in fields(SplitEmbeddings):
        value = getattr(embeddings, field.name)
        if isinstance(value, CaptionSet):
            tensors |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in fields(CaptionSet)}
        elif field.name != "split":
            tensors[field.name] = value
    return tensors
