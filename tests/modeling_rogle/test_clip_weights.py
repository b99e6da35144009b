"""Position tables from CLIP: stretched text positions and rectangular images."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from modeling_rogle.clip_weights import lengthen_text_positions, resize_image_positions


def test_stretch_keeps_the_first_20_and_gives_248_from_77() -> None:
    table = torch.randn(77, 8)
    long = lengthen_text_positions(table, 248)
    assert long.shape == (248, 8)
    assert torch.equal(long[:20], table[:20])


def test_stretch_equals_long_clips_rule_written_out() -> None:
    table = torch.randn(77, 8, dtype=torch.float64).float()
    long = lengthen_text_positions(table, 248)
    for k in range(228):
        old, part = divmod(k, 4)  # ratio 4: every old position becomes four
        if 20 + old + 1 < 77:
            expected = table[20 + old] + part / 4 * (table[20 + old + 1] - table[20 + old])
        else:  # the last rows continue with the last difference
            expected = table[76] + part / 4 * (table[76] - table[75])
        torch.testing.assert_close(long[20 + k], expected)


@pytest.mark.parametrize("length", [78, 100, 168, 248, 512, 1000])
def test_stretching_to_any_length_is_linear_and_keeps_the_order(length: int) -> None:
    # Row i of the table holds i, so that a stretched row holds its old position.
    old_position = lengthen_text_positions(torch.arange(77.0)[:, None], length)[:, 0]
    assert old_position.shape == (length,)
    assert torch.equal(old_position[:20], torch.arange(20.0))
    ratio = (length - 20) / 57
    torch.testing.assert_close(old_position[20:], 20 + torch.arange(length - 20) / ratio, atol=1e-4, rtol=0)
    assert old_position[-1] < 77  # never past the end of the last old position


@pytest.mark.parametrize("length", [45, 100, 301])
def test_a_caption_of_20_tokens_embeds_as_before(length: int) -> None:
    torch.manual_seed(0)
    fields = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    short = CLIPTextModel(CLIPTextConfig(**fields, max_position_embeddings=40)).eval()
    ids = torch.randint(2, 50, (3, 20))
    ids[:, 0], ids[:, -1], ids[1, 7:] = 0, 1, 1
    long = CLIPTextModel(CLIPTextConfig(**fields, max_position_embeddings=length)).eval()
    state = short.state_dict()
    name = "embeddings.position_embedding.weight"
    state[name] = lengthen_text_positions(state[name], length)
    long.load_state_dict(state)
    with torch.no_grad():
        before, after = short(input_ids=ids).pooler_output, long(input_ids=ids).pooler_output
    assert torch.equal(before, after)


def test_a_table_cannot_be_shortened() -> None:
    with pytest.raises(ValueError, match="77 text positions"):
        lengthen_text_positions(torch.zeros(77, 2), 50)


def test_same_grid_is_unchanged_and_class_token_is_kept() -> None:
    table = torch.randn(1 + 14 * 14, 6)
    assert torch.equal(resize_image_positions(table, (14, 14), (14, 14)), table)
    tall = resize_image_positions(table, (24, 8), (14, 14))
    assert tall.shape == (1 + 24 * 8, 6)
    assert torch.equal(tall[0], table[0])


def test_rows_do_not_mix_with_columns() -> None:
    # The table depends on the row only, and must still do so after resizing.
    rows = torch.arange(4.0)[:, None, None].expand(4, 4, 1).reshape(16, 1)
    tall = resize_image_positions(torch.cat([torch.zeros(1, 1), rows]), (8, 2), (4, 4))[1:].reshape(8, 2)
    assert torch.allclose(tall[:, 0], tall[:, 1])
    assert (tall[1:, 0] > tall[:-1, 0]).all()


def test_wrong_table_is_named() -> None:
    with pytest.raises(ValueError, match="17 image positions do not fit"):
        resize_image_positions(torch.zeros(17, 2), (8, 2), (5, 5))
