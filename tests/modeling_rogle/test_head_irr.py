"""IRRA's masked words: how they are drawn, that the image helps to predict them, and the head in a step."""

import pytest
import torch

from modeling_rogle import RogleConfig, RogleModel
from modeling_rogle.head_irr import IGNORED, ImplicitRelations


@pytest.fixture
def model(tiny_config: RogleConfig) -> RogleModel:
    torch.manual_seed(0)
    fields = {"head": "implicit_relations", "mask_probability": 0.5, "local_loss_weight": 0.0}
    return RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | fields)).eval()


def texts_of(head: ImplicitRelations, count: int, words: int) -> torch.Tensor:
    """Texts that repeat one ordinary word, and first a text without any word."""
    ids = torch.full((count, words + 2), 7)
    ids[:, 0], ids[:, -1] = head.bos, head.eos
    ids[0, 1:] = head.eos
    return ids


def test_masks_are_berts_and_exclude_start_end_and_padding(model: RogleModel) -> None:
    head = model.head
    ids = texts_of(head, 400, 40)
    torch.manual_seed(1)
    masked, targets = head.mask_words(ids)
    drawn = targets != IGNORED
    assert not drawn[0].any() and not drawn[:, 0].any() and not drawn[:, -1].any()
    assert torch.equal(masked[~drawn], ids[~drawn]) and bool((targets[drawn] == 7).all())
    words = drawn[1:, 1:-1]
    assert float(words.float().mean()) == pytest.approx(0.5, abs=0.02)
    by_mask, kept = masked[drawn] == head.bos, masked[drawn] == 7
    assert float(by_mask.float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float(kept.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert not (masked[1:, 1:-1] == head.eos).any()  # the text would end there


def test_each_masked_word_is_one_row_of_cross_entropy(model: RogleModel) -> None:
    head = model.head
    patches, words = torch.randn(2, 8, 32), torch.randn(2, 4, 32)
    kept = torch.tensor([[True] * 4, [True] * 3 + [False]])
    targets = torch.tensor([[IGNORED, 5, 9, IGNORED], [IGNORED, 3, IGNORED, IGNORED]])
    rows = head(patches, words, kept, targets)["head_word_losses"]
    assert rows.shape == (3,) and bool((rows > 0).all())
    one = head(patches[1:], words[1:, :3], kept[1:, :3], targets[1:, :3])["head_word_losses"]
    torch.testing.assert_close(one[0], rows[2])  # independent of other captions and of padding
    torch.testing.assert_close(head.loss({"head_word_losses": rows}), rows.mean())
    none = head(patches, words, kept, torch.full_like(targets, IGNORED))
    assert head.loss(none) == 0


def test_words_are_predicted_from_the_image(model: RogleModel) -> None:
    """Both masked captions are equal; only the patches determine the word."""
    head = model.head
    patches = torch.randn(2, 8, 32)
    words, kept = torch.randn(1, 3, 32).expand(2, -1, -1), torch.ones(2, 3, dtype=torch.bool)
    targets = torch.tensor([[IGNORED, 5, IGNORED], [IGNORED, 9, IGNORED]])
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(40):
        loss = head.loss(head(patches, words, kept, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    swapped = head.loss(head(patches.flip(0), words, kept, targets))
    assert swapped.item() > 1.0


def test_the_head_is_a_term_of_the_step_and_trains_both_encoders(model: RogleModel) -> None:
    ids, pixels = texts_of(model.head, 3, 6), torch.randn(3, 3, 32, 16)
    torch.manual_seed(2)
    out = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    torch.testing.assert_close(out.loss, out.loss_global + out.loss_head)
    plain = model(input_ids=ids, pixel_values=pixels)
    torch.testing.assert_close(out.text_embeds, plain.text_embeds)  # the embedding is of the whole caption
    out.loss_head.backward(retain_graph=True)
    for name in ("vision_model.encoder.layers.1.mlp.fc1", "text_model.encoder.layers.0.mlp.fc1"):
        assert model.get_submodule(name).weight.grad.abs().sum() > 0, name
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_step_without_a_masked_word_has_every_gradient(model: RogleModel) -> None:
    ids = texts_of(model.head, 1, 6)
    out = model(input_ids=ids, pixel_values=torch.randn(1, 3, 32, 16), return_loss=True)
    out.loss.backward()
    assert out.loss_head == 0 and all(p.grad is not None for p in model.parameters())


def test_the_head_has_no_parts_at_inference(model: RogleModel) -> None:
    assert model.part_counts == (0, 0)
    assert model.encode_image_parts(torch.randn(2, 3, 32, 16)).shape == (2, 0, 32)
