"""RogleModel: common behaviour of transformers' models, equality with CLIPModel, regions and losses in one forward."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from transformers import AutoModel, AutoModelForZeroShotImageClassification, CLIPConfig, CLIPModel

from modeling_rogle import RogleConfig, RogleModel, RogleOutput, RogleProcessor
from modeling_rogle.box_ops import crop_boxes
from modeling_rogle.configuration_rogle import HEAD_DEFAULTS, REGION_FEATURES
from modeling_rogle.losses import (
    multi_positive_itc,
    primary_components,
    region_sentence_contrastive,
    token_similarity,
)


@pytest.fixture
def batch(tiny_processor: RogleProcessor) -> dict:
    """Three images with captions, two region-sentence pairs of the first and one of the last."""
    torch.manual_seed(3)
    captions = ["A man wears a red jacket. His shoes are white.", "A woman.", "His bag is blue. " * 4]
    sentences = ["A man wears a red jacket.", "His shoes are white.", "His bag is blue."]
    ids, _ = tiny_processor.caption_spans(captions, [[], [], []])
    _, spans = tiny_processor.caption_spans(
        [captions[0], captions[2]], [[{"start": 0, "end": 25}, {"start": 26, "end": 46}], [{"start": 0, "end": 16}]]
    )
    texts = tiny_processor.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    return {
        "pixel_values": torch.randn(3, 3, 32, 16),
        "input_ids": texts["input_ids"],
        "boxes": torch.tensor([[0.1, 0.2, 0.9, 0.5], [0.2, 0.8, 0.8, 1.0], [0.0, 0.4, 0.5, 0.7]]),
        "box_image": torch.tensor([0, 0, 2]),
        "sentence_input_ids": tiny_processor(text=sentences, return_tensors="pt")["input_ids"],
        "sentence_spans": torch.cat([torch.from_numpy(s) for s in spans]),
        "sentence_ids": torch.tensor([0, 1, 2]),
        "part_ids": torch.tensor([0, 1, 2]),
        "person_ids": torch.tensor([5, 6, 5]),
    }


def plain_clip(folder: Path, eos: int, image_size: int = 64) -> CLIPModel:
    """Saves and returns a random CLIPModel."""
    encoder = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=24,
        text_config={**encoder, "vocab_size": 300, "max_position_embeddings": 77, "eos_token_id": eos},
        vision_config={**encoder, "image_size": image_size, "patch_size": 16},
    )
    torch.manual_seed(4)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    return model


def captions_of(length: int, last: int) -> torch.Tensor:
    ids = torch.randint(3, 290, (4, length))
    for row, end in enumerate((length, 5, 12, 9)):
        ids[row, end - 1 :] = last
    return ids


# --- equality with CLIP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [2, 299])
def test_square_images_and_short_captions_equal_clip(tmp_path: Path, eos: int) -> None:
    clip = plain_clip(tmp_path, eos)
    model = RogleModel.from_pretrained(tmp_path, image_size=[64, 64]).eval()
    inputs = {"input_ids": captions_of(20, 299), "pixel_values": torch.randn(4, 3, 64, 64)}
    expected, found = clip(**inputs), model(**inputs)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


def test_rectangle_equals_clip_with_interpolated_positions(tmp_path: Path) -> None:
    clip = plain_clip(tmp_path, 299)
    model = RogleModel.from_pretrained(tmp_path).eval()
    inputs = {"input_ids": captions_of(20, 299), "pixel_values": torch.randn(4, 3, 384, 128)}
    expected, found = clip(**inputs, interpolate_pos_encoding=True), model(**inputs)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, atol=1e-5, rtol=0)


def test_captions_over_20_tokens_use_stretched_positions(tmp_path: Path) -> None:
    clip = plain_clip(tmp_path, 299)
    model = RogleModel.from_pretrained(tmp_path).eval()
    ids = captions_of(40, 299)
    expected, found = clip.get_text_features(ids).pooler_output, model.get_text_features(ids).pooler_output
    torch.testing.assert_close(found[1:], expected[1:], atol=1e-5, rtol=0)  # texts of 5, 12 and 9 tokens
    assert (found[0] - expected[0]).abs().max() > 1e-3
    assert model.get_text_features(captions_of(248, 299)).pooler_output.shape == (4, 24)


def test_a_clip_folder_leaves_no_key_missing(tmp_path: Path) -> None:
    plain_clip(tmp_path, 299)
    model, info = RogleModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert model.config.model_type == "rogle"
    assert model.region_head.logit_scale.item() == pytest.approx(2.6592)
    assert set(model.state_dict()) - set(CLIPModel.from_pretrained(tmp_path).state_dict()) == {
        "region_head.logit_scale"
    }
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "rogle"


def test_clip_fields_and_dtype_are_passed_on(tmp_path: Path) -> None:
    plain_clip(tmp_path, 299)
    model = RogleModel.from_pretrained(
        tmp_path, image_size=[96, 32], local_loss_weight=0.0, max_position_embeddings=100, dtype=torch.bfloat16
    )
    assert model.config.patch_grid == (6, 2)
    assert model.config.local_loss_weight == 0
    assert model.text_model.embeddings.position_embedding.weight.shape == (100, 32)
    assert model.dtype == torch.bfloat16
    with pytest.raises(Exception, match="image_size .* is not a multiple of patch_size 16"):
        RogleModel.from_pretrained(tmp_path, image_size=[100, 50])


def test_arguments_reach_a_model_read_from_clip(tmp_path: Path) -> None:
    plain_clip(tmp_path, 299)
    model = RogleModel.from_pretrained(tmp_path, attn_implementation="eager", logit_scale_init_value=2.0)
    assert model.config._attn_implementation == model.vision_model.config._attn_implementation == "eager"
    assert model.config.logit_scale_init_value == 2.0
    with pytest.raises(ValueError, match="max_position_embeddings=64: .* has 77 text positions"):
        RogleModel.from_pretrained(tmp_path, max_position_embeddings=64)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type 'bert' in config.json"):
        RogleModel.from_pretrained(tmp_path)


def test_new_parameters_are_initialised(tiny_config: RogleConfig) -> None:
    model = RogleModel(tiny_config)
    assert model.region_head.logit_scale.item() == pytest.approx(2.6592)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all() and parameter.abs().max() < 10, name
    assert model.vision_model.embeddings.position_embedding.weight.std().item() == pytest.approx(0.02, rel=0.5)


def test_pickled_rogle_weights_are_refused(tmp_path: Path, tiny_model: RogleModel) -> None:
    tiny_model.config.save_pretrained(tmp_path)
    torch.save(tiny_model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        RogleModel.from_pretrained(tmp_path)


# --- common behaviour of transformers' models --------------------------------------------------------------------


@pytest.mark.parametrize("auto", [RogleModel, AutoModel, AutoModelForZeroShotImageClassification])
def test_round_trip_is_bit_equal(tmp_path: Path, tiny_model: RogleModel, batch: dict, auto: type) -> None:
    before = tiny_model(**batch)
    tiny_model.save_pretrained(tmp_path)
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, RogleModel)
    assert not any(info.values())
    after = loaded.eval()(**batch)
    for name in ("image_embeds", "text_embeds", "region_embeds", "sentence_embeds", "logits_per_image"):
        assert torch.equal(before[name], after[name]), name


def test_tuple_output_holds_the_same_in_order(tiny_model: RogleModel, batch: dict) -> None:
    named = tiny_model(**batch, return_loss=True)
    plain = tiny_model(**batch, return_loss=True, return_dict=False)
    assert isinstance(named, RogleOutput) and isinstance(plain, tuple)
    assert len(plain) == len(named.to_tuple())
    assert torch.equal(plain[0], named.loss)
    assert torch.equal(plain[4], named.logits_per_image)


def test_sdpa_equals_eager(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model.set_attn_implementation("sdpa")
    assert tiny_model.text_model.config._attn_implementation == "sdpa"
    one = tiny_model(**batch)
    tiny_model.set_attn_implementation("eager")
    assert tiny_model.text_model.config._attn_implementation == "eager"
    two = tiny_model(**batch)
    for name in ("image_embeds", "text_embeds", "region_embeds", "sentence_embeds"):
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0)


def test_attentions_and_hidden_states_on_request(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model.set_attn_implementation("eager")
    output = tiny_model(**batch, output_attentions=True, output_hidden_states=True)
    assert len(output.vision_model_output.attentions) == 2
    assert output.vision_model_output.attentions[0].shape == (3, 2, 9, 9)
    assert len(output.text_model_output.hidden_states) == 3
    torch.testing.assert_close(output.text_embeds, tiny_model(**batch).text_embeds, atol=1e-5, rtol=0)


def test_attention_maps_of_other_than_eager_attention_are_refused(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=r"'sdpa' attention computes no maps; call .*\('eager'\) first"):
        tiny_model(**batch, output_attentions=True)


def test_states_can_be_requested_by_the_configuration(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model.config.output_hidden_states = True
    output = tiny_model(**batch)
    assert len(output.vision_model_output.hidden_states) == len(output.text_model_output.hidden_states) == 3


@pytest.mark.slow
def test_towers_compile_into_one_graph(tiny_model: RogleModel, batch: dict) -> None:
    torch._dynamo.reset()
    for encoder, inputs in (
        (tiny_model.text_model, batch["input_ids"]),
        (tiny_model.vision_model, batch["pixel_values"]),
    ):
        compiled = torch.compile(encoder, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(inputs).pooler_output, encoder(inputs).pooler_output, atol=1e-5, rtol=0)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
def test_device_map_loads_the_same_model(tiny_checkpoint: Path, batch: dict, device_map: str | dict) -> None:
    expected = RogleModel.from_pretrained(tiny_checkpoint)(**batch)
    found = RogleModel.from_pretrained(tiny_checkpoint, device_map=device_map)(**batch)
    assert torch.equal(found.image_embeds, expected.image_embeds)
    assert torch.equal(found.region_embeds, expected.region_embeds)


@pytest.mark.parametrize("feature", REGION_FEATURES)
def test_weights_that_come_to_the_device_only_when_used_give_the_same(
    tiny_model: RogleModel, batch: dict, feature: str
) -> None:
    tiny_model.config.region_feature = feature
    expected = tiny_model(**batch)
    cpu_offload(tiny_model, execution_device="cpu")
    assert tiny_model.visual_projection.weight.is_meta
    found = tiny_model(**batch)
    for name in ("image_embeds", "text_embeds", "region_embeds", "sentence_embeds"):
        torch.testing.assert_close(found[name], expected[name])


def test_no_part_with_its_own_parameters_is_split_over_devices(tiny_model: RogleModel) -> None:
    modules = dict(tiny_model.named_modules())
    whole = [n for n, m in modules.items() if type(m).__name__ in tiny_model._no_split_modules]
    assert {"vision_model.embeddings", "text_model.embeddings", "vision_model.encoder.layers.1"} <= set(whole)
    for name, module in modules.items():  # what is split must have no parameters but those of its parts and its root
        if name and list(module.children()) and not any(f"{name}.".startswith(f"{part}.") for part in whole):
            assert not list(module.parameters(recurse=False)), name


def test_gradient_checkpointing_changes_no_gradient(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model.train()
    tiny_model(**batch, return_loss=True).loss.backward()
    expected = {n: p.grad.clone() for n, p in tiny_model.named_parameters()}
    tiny_model.zero_grad()
    tiny_model.gradient_checkpointing_enable()
    passes = []
    hook = tiny_model.vision_model.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    tiny_model(**batch, return_loss=True).loss.backward()
    hook.remove()
    assert len(passes) == 2  # computed again on the way back
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_losses(tiny_model: RogleModel, batch: dict, dtype: torch.dtype) -> None:
    expected = tiny_model(**batch, return_loss=True).loss
    output = tiny_model.to(dtype)(**batch, return_loss=True)
    assert output.image_embeds.dtype == dtype
    torch.testing.assert_close(output.loss.float(), expected, atol=0.05, rtol=0)


def test_two_forwards_are_equal(tiny_model: RogleModel, batch: dict) -> None:
    one, two = tiny_model(**batch, return_loss=True), tiny_model(**batch, return_loss=True)
    assert torch.equal(one.loss, two.loss)
    assert torch.equal(one.region_embeds, two.region_embeds)


def test_every_parameter_has_a_gradient(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model(**batch, return_loss=True).loss.backward()
    without = [n for n, p in tiny_model.named_parameters() if p.grad is None]
    assert not without


# --- texts without padding ---------------------------------------------------------------------------------------


def test_padding_does_not_matter(tiny_model: RogleModel, tiny_processor: RogleProcessor) -> None:
    texts = ["A man.", "The woman has long brown hair and a blue bag over her left shoulder. " * 3, "Red."] * 20
    together = tiny_model.encode_texts(**tiny_processor(text=texts, return_tensors="pt"))
    for i in (0, 1, 2, 58):
        alone = tiny_model.encode_texts(**tiny_processor(text=[texts[i]], return_tensors="pt"))
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=0)
    plain = tiny_model.get_text_features(**tiny_processor(text=texts, return_tensors="pt")).pooler_output
    torch.testing.assert_close(together, torch.nn.functional.normalize(plain, dim=-1), atol=1e-5, rtol=0)


def test_kept_tokens_are_those_of_the_text_model(tiny_model: RogleModel, tiny_processor: RogleProcessor) -> None:
    ids = tiny_processor(text=["A man.", "His shoes are white. " * 5] * 20, return_tensors="pt")["input_ids"]
    _, tokens = tiny_model.encode_tokens(ids, keep_tokens=True)
    states = tiny_model.text_model(input_ids=ids).last_hidden_state
    assert tokens.shape == states.shape
    torch.testing.assert_close(tokens[1], states[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[0, :5], states[0, :5], atol=1e-5, rtol=0)


def test_no_text_gives_no_embedding(tiny_model: RogleModel) -> None:
    assert tiny_model.encode_texts(torch.zeros(0, 5, dtype=torch.long)).shape == (0, 32)


# --- both branches in one forward --------------------------------------------------------------------------------


def test_regions_and_images_come_from_one_forward(tiny_model: RogleModel, batch: dict) -> None:
    calls = []
    hook = tiny_model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    images, regions = tiny_model.encode_images(batch["pixel_values"], batch["boxes"], batch["box_image"])
    hook.remove()
    assert len(calls) == 1
    output = tiny_model(**batch)
    torch.testing.assert_close(images, output.image_embeds)
    torch.testing.assert_close(regions, output.region_embeds)
    torch.testing.assert_close(regions.norm(dim=-1), torch.ones(3))


def test_a_region_is_the_projected_mean_of_its_patches(tiny_model: RogleModel, batch: dict) -> None:
    box = torch.tensor([[0.0, 0.25, 1.0, 0.75]])  # rows 1 and 2 of the 4 x 2 grid
    _, regions = tiny_model.encode_images(batch["pixel_values"], box, torch.tensor([1]))
    patches = tiny_model.vision_model(batch["pixel_values"]).last_hidden_state[1, 1:]
    mean = tiny_model.visual_projection(tiny_model.vision_model.post_layernorm(patches[2:6].mean(0)))
    torch.testing.assert_close(regions[0], torch.nn.functional.normalize(mean, dim=-1))


def test_the_loss_is_the_weighted_sum_of_its_named_terms(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model.config.tsl_image_weight = 0.3
    weight = torch.tensor([1.0, 0.5, 0.2])
    out = tiny_model(**batch, pair_weight=weight, return_loss=True)
    total = out.loss_global + 0.5 * out.loss_local + 1.0 * out.loss_tsl_text + 0.3 * out.loss_tsl_image
    torch.testing.assert_close(out.loss, total)
    itc = multi_positive_itc(out.image_embeds, out.text_embeds, tiny_model.logit_scale.exp(), batch["person_ids"])
    torch.testing.assert_close(out.loss_global, itc)
    local = region_sentence_contrastive(
        out.region_embeds, out.sentence_embeds, tiny_model.region_head(), batch["sentence_ids"], None, weight
    )
    torch.testing.assert_close(out.loss_local, local)


def test_text_token_similarity_pools_exactly_the_sentences_tokens(tiny_model: RogleModel, batch: dict) -> None:
    out = tiny_model(**batch, return_loss=True)
    states = out.text_model_output.last_hidden_state
    pooled = [
        states[image, first:last].mean(0)
        for image, (first, last) in zip(batch["box_image"], batch["sentence_spans"], strict=True)
    ]
    expected = token_similarity(tiny_model.text_projection(torch.stack(pooled)), out.sentence_embeds)
    torch.testing.assert_close(out.loss_tsl_text, expected)
    batch["sentence_spans"][:] = -1  # as if the short caption was drawn
    assert tiny_model(**batch, return_loss=True).loss_tsl_text == 0


def test_local_branch_off_is_clips_contrastive_step(tiny_model: RogleModel, batch: dict) -> None:
    out = tiny_model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"], return_loss=True)
    assert out.loss_local is None and out.region_embeds is None
    torch.testing.assert_close(out.loss, out.loss_global)


def with_fields(model: RogleModel, **fields: object) -> RogleModel:
    for name, value in fields.items():
        setattr(model.config, name, value)
    return model


def test_a_fixed_temperature_replaces_the_learnt_one(tiny_model: RogleModel, batch: dict) -> None:
    model = with_fields(tiny_model, itc_temperature=0.02, same_identity="excluded")
    out = model(**batch, return_loss=True)
    excluded = multi_positive_itc(out.image_embeds, out.text_embeds, 50.0, batch["person_ids"], None, True)
    torch.testing.assert_close(out.loss_global, excluded)
    out.loss.backward()
    assert model.logit_scale.grad == 0


def test_crops_can_be_the_image_side_of_the_local_loss(tiny_model: RogleModel, batch: dict) -> None:
    model = with_fields(tiny_model, local_contrast="crop")
    out = model(**batch, return_loss=True)
    rows = [0, 2]  # the first box of each image
    crops = crop_boxes(batch["pixel_values"], batch["boxes"][rows], batch["box_image"][rows])
    crops, _ = model.encode_images(crops)
    scale, ids = model.region_head(), batch["sentence_ids"]
    expected = region_sentence_contrastive(crops, out.sentence_embeds[rows], scale, ids[rows])
    torch.testing.assert_close(out.loss_local, expected)
    out.loss_local.backward()
    assert model.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0


def test_short_captions_are_compared_with_primary_components(
    tiny_model: RogleModel, batch: dict, tiny_processor: RogleProcessor
) -> None:
    model = with_fields(tiny_model, short_loss_weight=0.5, short_components=1, local_loss_weight=0.0)
    short = tiny_processor(text=["A man.", "A woman in red.", "He walks."], return_tensors="pt")["input_ids"]
    out = model(**batch, short_input_ids=short, return_loss=True)
    coarse = torch.nn.functional.normalize(primary_components(out.image_embeds, 1), dim=-1)
    scale = model.logit_scale.exp()
    expected = multi_positive_itc(coarse, model.encode_texts(short), scale, batch["person_ids"])
    torch.testing.assert_close(out.loss_short, expected)
    torch.testing.assert_close(out.loss, out.loss_global + out.loss_tsl_text + 0.5 * out.loss_short)
    with pytest.raises(ValueError, match="short_loss_weight is set: RogleModel.forward needs short_input_ids"):
        model(**batch, return_loss=True)


@pytest.mark.parametrize("head", HEAD_DEFAULTS)
def test_a_head_is_saved_and_loaded_and_does_not_change_the_encoders(
    tmp_path: Path, tiny_checkpoint: Path, batch: dict, head: str
) -> None:
    torch.manual_seed(1)
    plain, model = RogleModel.from_pretrained(tiny_checkpoint), RogleModel.from_pretrained(tiny_checkpoint, head=head)
    for parameter in model.parameters():
        assert torch.isfinite(parameter).all() and parameter.abs().max() < 10
    assert torch.equal(plain(**batch).text_embeds, model(**batch).text_embeds)
    assert torch.equal(plain(**batch).region_embeds, model(**batch).region_embeds)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and loaded.config.head == head
    losses = []
    for each in (model, loaded):
        torch.manual_seed(2)  # of the masks
        losses.append(each(**batch, return_loss=True).loss)
    assert torch.equal(*losses)
    half = loaded.to(torch.bfloat16)(**batch, return_loss=True)
    assert half.loss.isfinite() and (head == "none") == (half.loss_head is None)


@pytest.mark.parametrize("head", ["parts", "implicit_relations"])
def test_a_head_on_clip_weights_is_newly_initialised(tmp_path: Path, head: str) -> None:
    plain_clip(tmp_path, 299)
    model, info = RogleModel.from_pretrained(tmp_path, head=head, output_loading_info=True)
    assert info["missing_keys"] and all(name.startswith("head.") for name in info["missing_keys"])
    for name, parameter in model.head.named_parameters():
        assert torch.isfinite(parameter).all() and parameter.abs().max() <= 1, name
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name


# --- bad input ---------------------------------------------------------------------------------------------------


def test_bad_input_is_named(tiny_model: RogleModel, batch: dict) -> None:
    with pytest.raises(ValueError, match="needs input_ids and pixel_values"):
        tiny_model(pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="pixel_values are 64 x 64, the model reads 32 x 16"):
        tiny_model(pixel_values=torch.zeros(3, 3, 64, 64), input_ids=batch["input_ids"])
    batch["boxes"][1] = torch.tensor([0.4, 0.4, 0.4, 0.9])
    with pytest.raises(ValueError, match="boxes: row 1 .* has no area"):
        tiny_model(**batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_image": None}, "box_image must have one row for each of 3 boxes"),
        ({"box_image": torch.tensor([0, 0])}, "box_image must have one row for each of 3 boxes"),
        ({"box_image": torch.tensor([0, 0, 7])}, "box_image names image 7, there are 3"),
        ({"sentence_input_ids": torch.zeros(2, 5, dtype=torch.long)}, "sentence_input_ids must have one row for each"),
        ({"boxes": torch.full((3, 4), float("nan"))}, "boxes: row 0"),
    ],
)
def test_pairs_that_do_not_fit_are_named(tiny_model: RogleModel, batch: dict, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(**(batch | change))


def test_regions_follow_the_grid_of_the_image_given(tiny_model: RogleModel, batch: dict) -> None:
    wide, box = torch.randn(1, 3, 16, 32), torch.tensor([[0.75, 0.5, 1.0, 1.0]])  # the last patch of 2 x 4
    found = tiny_model(
        pixel_values=wide,
        input_ids=batch["input_ids"][:1],
        boxes=box,
        box_image=torch.tensor([0]),
        interpolate_pos_encoding=True,
    )
    last = tiny_model.vision_model(wide, interpolate_pos_encoding=True).last_hidden_state[0, -1]
    expected = tiny_model.visual_projection(tiny_model.vision_model.post_layernorm(last))
    torch.testing.assert_close(found.region_embeds[0], torch.nn.functional.normalize(expected, dim=-1))


def test_every_parameter_has_a_gradient_without_pairs_too(tiny_model: RogleModel, batch: dict) -> None:
    tiny_model(
        pixel_values=batch["pixel_values"], input_ids=batch["input_ids"], return_loss=True
    ).loss.backward()  # data-parallel training needs them
    assert all(p.grad is not None for p in tiny_model.parameters())


def test_other_sizes_on_request(tiny_model: RogleModel, batch: dict) -> None:
    found = tiny_model(
        pixel_values=torch.randn(3, 3, 64, 16), input_ids=batch["input_ids"], interpolate_pos_encoding=True
    )
    assert found.image_embeds.shape == (3, 32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pair_weigth": torch.ones(2)}, "no argument 'pair_weigth'"),
        ({"sentence_spans": torch.zeros(1, 2, dtype=torch.long)}, "sentence_spans must have one row for each of"),
        ({"person_ids": torch.arange(7)}, "person_ids must have one row for each of"),
    ],
)
def test_a_wrong_argument_of_forward_is_named(tiny_model: RogleModel, wrong: dict, message: str) -> None:
    given = {
        "input_ids": torch.tensor([[0, 5, 1], [0, 6, 1]]),
        "pixel_values": torch.zeros(2, 3, 32, 16),
        "boxes": torch.tensor([[0.0, 0, 1, 1], [0, 0, 0.5, 0.5]]),
        "box_image": torch.tensor([0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        tiny_model(**given | wrong, return_loss=True)


def test_a_text_over_the_limit_is_refused_in_one_line(tiny_model: RogleModel) -> None:
    ids = torch.full((1, 100), 5)
    ids[0, -1] = tiny_model.config.text_config.eos_token_id
    with pytest.raises(ValueError, match="a text of 100 tokens, the model reads 64"):
        tiny_model.encode_texts(ids)


def test_a_rogle_checkpoint_keeps_its_sizes(tiny_checkpoint: Path) -> None:
    for field, value in (("image_size", [64, 64]), ("max_position_embeddings", 99)):
        with pytest.raises(ValueError, match=f"{field} of this Rogle checkpoint"):
            RogleModel.from_pretrained(tiny_checkpoint, **{field: value})
    RogleModel.from_pretrained(tiny_checkpoint, image_size=[32, 16], max_position_embeddings=64)


def test_there_is_one_crop_per_image_for_any_image_size(tiny_model: RogleModel) -> None:
    tiny_model.config.tsl_image_weight = 1.0
    seen = []
    tiny_model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    out = tiny_model(
        input_ids=torch.tensor([[0, 5, 1], [0, 6, 1]]),
        pixel_values=torch.randn(2, 3, 48, 24),
        boxes=torch.tensor([[0.0, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0, 0.5, 1, 1]]),
        box_image=torch.tensor([0, 1, 0]),
        sentence_input_ids=torch.tensor([[0, 5, 1], [0, 6, 1], [0, 7, 1]]),
        interpolate_pos_encoding=True,
        return_loss=True,
    )
    assert seen == [2, 2] and out.loss_tsl_image > 0
    tiny_model.config.tsl_image_weight = 0.0
