"""The objective of a step for every system: the sum of its terms, and the same gradients from parts of a batch."""

import pytest
import torch
from accelerate import Accelerator

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from train.data.batch import PAIR_INPUTS
from train.data.pairs import PairDataset, normalize_images
from train.global_batch import GlobalBatch, forward_step

# Configuration fields of each system, and the weights of its terms.
SYSTEMS = {
    "ctlg": ({"itc_temperature": 0.02, "same_identity": "excluded", "local_loss_weight": 0.0}, {}),
    "acsa": (
        {"head": "acsa", "global_loss": "cmpm", "id_loss": "cmpc", "id_loss_weight": 4.0, "head_loss_weight": 0.1},
        {"loss_id": 4.0, "loss_head": 0.1, "loss_local": 0.5},
    ),
    "parts": ({"head": "parts", "head_loss_weight": 2.0}, {"loss_local": 0.5, "loss_head": 2.0}),
    "irra": (
        {"head": "implicit_relations", "global_loss": "sdm", "id_loss_weight": 1.0},
        {"loss_id": 1.0, "loss_head": 1.0, "loss_local": 0.5},
    ),
    "goal": (
        {"local_contrast": "crop", "tsl_image_weight": 1.0, "tsl_detach_target": False},
        {"loss_local": 0.5, "loss_tsl_image": 1.0},
    ),
    "longclip": ({"short_loss_weight": 0.5, "short_components": 2}, {"loss_short": 0.5, "loss_local": 0.5}),
}


@pytest.fixture(scope="module")
def batch(tiny_processor: RogleProcessor) -> dict:
    """Nine synthetic images of four identities with different numbers of pairs; the first image has none."""
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(9))
    pairs = PairDataset(rows, tiny_processor, short_captions=True)
    pairs.pairs[0] = []
    batch = pairs.collate([pairs[n] for n in range(9)])
    batch.person_ids = torch.arange(9) % 4
    batch.identity_classes = torch.arange(9) % 4
    batch.caption_weight = torch.linspace(0.2, 1, 9)
    return batch.model_inputs(normalize_images(batch.images, tiny_processor))


def model_of(config: RogleConfig, name: str) -> RogleModel:
    torch.manual_seed(0)
    return RogleModel(RogleConfig.from_dict(config.to_dict() | SYSTEMS[name][0] | {"num_identities": 4}))


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_loss_is_the_weighted_sum_of_its_terms(name: str, tiny_config: RogleConfig, batch: dict) -> None:
    model, weights = model_of(tiny_config, name), SYSTEMS[name][1]
    out = model(**batch, return_loss=True)
    total = out.loss_global + out.loss_tsl_text + sum(weight * out[term] for term, weight in weights.items())
    torch.testing.assert_close(out.loss, total)
    terms = {key for key, value in out.items() if key.startswith("loss_")}
    assert terms == {"loss_global", "loss_tsl_text", *weights}
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["acsa", "goal"])
def test_a_sentence_about_several_regions_is_one_sentence(name: str, tiny_config: RogleConfig, batch: dict) -> None:
    """What reads sentences, not pairs, is the same whether a sentence has one region or three."""
    model = model_of(tiny_config, name).eval()
    repeated = batch | {key: batch[key].repeat_interleave(3, 0) for key in PAIR_INPUTS}
    once, thrice = model(**batch, return_loss=True), model(**repeated, return_loss=True)
    torch.testing.assert_close(thrice.loss_tsl_text, once.loss_tsl_text)
    if name == "acsa":
        torch.testing.assert_close(thrice.loss_head, once.loss_head)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "irra"])
def test_parts_of_a_batch_train_as_the_whole(name: str, tiny_config: RogleConfig, batch: dict) -> None:
    model, found = model_of(tiny_config, name), []
    for parts in (1, 3):
        model.zero_grad()
        output, backward = forward_step(Accelerator(cpu=True), model, batch, GlobalBatch(), parts)
        backward()
        found.append((output.loss.item(), {key: p.grad.clone() for key, p in model.named_parameters()}))
    (whole, wanted), (cached, gradients) = found
    assert cached == pytest.approx(whole, abs=1e-4)
    largest = max(float(each.abs().max()) for each in wanted.values())
    for key, each in wanted.items():
        assert float((gradients[key] - each).abs().max()) < 1e-4 * largest, key


def test_masked_words_are_the_same_in_both_passes_of_a_part(tiny_config: RogleConfig, batch: dict) -> None:
    model = model_of(tiny_config, "irra")
    torch.manual_seed(3)
    output, backward = forward_step(Accelerator(cpu=True), model, batch, GlobalBatch(), 2)
    backward()
    torch.manual_seed(3)
    parts = [  # the masks that the two parts drew
        model(**{k: v for k, v in batch.items() if k in ("input_ids", "pixel_values", "identities")} | piece,
              return_loss_inputs=True).loss_inputs["head_word_losses"]
        for piece in ({k: batch[k][rows] for k in ("input_ids", "pixel_values", "identities")}
                      for rows in (slice(0, 5), slice(5, 9)))
    ]  # fmt: skip
    assert output.loss_head.item() == pytest.approx(torch.cat(parts).mean().item(), abs=1e-4)
    assert model.head.vocabulary.weight.grad.abs().sum() > 0
