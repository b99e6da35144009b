"""The three region features: common properties, gradients, gradient checkpointing, precision and compilation."""

import pytest
import torch
from torch import nn

from modeling_rogle import RogleConfig, RogleModel
from modeling_rogle.box_ops import roi_align
from modeling_rogle.configuration_rogle import REGION_FEATURES
from modeling_rogle.evaluation.leakage import region_leakage
from modeling_rogle.region_features import value_only_block

WHOLE = [0.0, 0.0, 1.0, 1.0]
BOXES = torch.tensor(
    [WHOLE, [0.25, 0.3, 0.75, 0.5], [0.1, 0.1, 0.12, 0.12], [0.0, 0.5, 1.0, 1.0], [0.5, 0.0, 1.0, 0.25]]
)
BOX_IMAGE = torch.tensor([2, 0, 2, 1, 2])
GRID = (4, 2)


@pytest.fixture
def pixels() -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randn(3, 3, 32, 16)


@pytest.fixture(params=REGION_FEATURES)
def model(request: pytest.FixtureRequest, tiny_config: RogleConfig) -> RogleModel:
    """A tiny random model for each region feature."""
    return with_feature(tiny_config, request.param)


def with_feature(config: RogleConfig, feature: str) -> RogleModel:
    torch.manual_seed(0)
    model = RogleModel(RogleConfig.from_dict(config.to_dict() | {"region_feature": feature})).eval()
    # With initial weights tokens hardly attend to each other.
    for name, parameter in model.vision_model.encoder.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            parameter.data *= 4
    return model


def regions_of(
    model: RogleModel, pixels: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor, **options: bool
) -> torch.Tensor:
    captions = torch.tensor([[0, 5, 6, model.config.text_config.eos_token_id]] * len(pixels))
    return model(captions, pixels, boxes=boxes, box_image=box_image, **options).region_embeds


# --- properties of every feature ---------------------------------------------------------------------------------


def test_one_image_alone_equals_the_batch_and_the_boxes_in_any_order(model: RogleModel, pixels: torch.Tensor) -> None:
    images, regions = model.encode_images(pixels, BOXES, BOX_IMAGE)
    assert regions.shape == (5, 32) and regions.dtype == torch.float32
    torch.testing.assert_close(regions.norm(dim=-1), torch.ones(5))
    for image in range(3):
        rows = (BOX_IMAGE == image).nonzero()[:, 0].flip(0)
        one, alone = model.encode_images(pixels[image : image + 1], BOXES[rows], torch.zeros_like(rows))
        torch.testing.assert_close(one[0], images[image], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone, regions[rows], atol=1e-5, rtol=0)


def test_no_boxes_give_no_embeddings(model: RogleModel, pixels: torch.Tensor) -> None:
    images, regions = model.encode_images(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert images.shape == (3, 32) and regions.shape == (0, 32)


def test_region_of_other_grid_than_the_configurations(model: RogleModel) -> None:
    wide, box = torch.randn(1, 3, 16, 40), torch.tensor([[0.8, 0.5, 1.0, 1.0]])
    found = regions_of(model, wide, box, torch.tensor([0]), interpolate_pos_encoding=True)
    assert found.shape == (1, 32) and found.isfinite().all()


def test_gradients_reach_the_encoder_and_equal_those_with_checkpointing(
    model: RogleModel, pixels: torch.Tensor
) -> None:
    def gradients() -> tuple[dict[str, torch.Tensor], int]:
        passes = []
        hook = model.vision_model.encoder.layers[-1].layer_norm2.register_forward_pre_hook(lambda *_: passes.append(1))
        model.zero_grad()
        regions_of(model, pixels, BOXES, BOX_IMAGE)[:, :5].sum().backward()
        hook.remove()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, len(passes)

    model.train()
    expected, once = gradients()
    model.gradient_checkpointing_enable()
    found, twice = gradients()
    # Blocks that the feature does not use have no gradient and are not recomputed.
    assert twice > once
    assert expected.keys() == found.keys()
    for name in ("patch_embedding.weight", "position_embedding.weight"):
        assert expected[f"vision_model.embeddings.{name}"].abs().max() > 0
    for layer in range(2):
        assert expected[f"vision_model.encoder.layers.{layer}.self_attn.v_proj.weight"].abs().max() > 0
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_compiles_into_one_graph(model: RogleModel, pixels: torch.Tensor) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model.encode_images, fullgraph=True, backend="eager")
    expected = model.encode_images(pixels, BOXES, BOX_IMAGE)
    for one, two in zip(compiled(pixels, BOXES, BOX_IMAGE), expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(model: RogleModel, pixels: torch.Tensor, dtype: torch.dtype) -> None:
    expected = model.encode_images(pixels, BOXES, BOX_IMAGE)[1]
    found = model.to(dtype).encode_images(pixels.to(dtype), BOXES, BOX_IMAGE)[1]
    assert found.isfinite().all()
    assert (found * expected).sum(-1).min() > 0.99


def test_autocast_is_near(model: RogleModel, pixels: torch.Tensor) -> None:
    expected = model.encode_images(pixels, BOXES, BOX_IMAGE)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.encode_images(pixels, BOXES, BOX_IMAGE)[1]
    assert (found * expected).sum(-1).min() > 0.99


def test_eager_attention_gives_the_same(model: RogleModel, pixels: torch.Tensor) -> None:
    expected = model.encode_images(pixels, BOXES, BOX_IMAGE)[1]
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model.encode_images(pixels, BOXES, BOX_IMAGE)[1], expected, atol=1e-5, rtol=0)


def test_bad_boxes_are_named(model: RogleModel, pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"boxes: row 1 .* has no area inside the image"):
        model.encode_images(pixels, torch.tensor([WHOLE, [0.4, 0.4, 0.4, 0.9]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="box_image names image 3, there are 3"):
        model.encode_images(pixels, torch.tensor([WHOLE]), torch.tensor([3]))


def test_states_of_patches_are_returned_on_request(model: RogleModel, pixels: torch.Tensor) -> None:
    inputs = {
        "pixel_values": pixels,
        "input_ids": torch.tensor([[0, 5, 6, model.config.text_config.eos_token_id]] * 3),
        "boxes": BOXES,
        "box_image": BOX_IMAGE,
    }
    whole = model(**inputs).vision_model_output
    assert whole.last_hidden_state.shape == (3, 9, 32)
    step = model(**inputs, return_loss=True)
    torch.testing.assert_close(step.vision_model_output.pooler_output, whole.pooler_output, atol=1e-5, rtol=1e-4)
    requested = model(**inputs, return_loss=True, output_hidden_states=True).vision_model_output
    assert [len(states[0]) for states in requested.hidden_states] == [9, 9, 9]


# --- leak --------------------------------------------------------------------------------------------------------


def test_crops_do_not_leak_and_whole_images_cannot(model: RogleModel, pixels: torch.Tensor) -> None:
    found = region_leakage(model, pixels, BOXES, BOX_IMAGE)
    assert found[0].abs() < 1e-5
    if model.config.region_feature == "crop":
        torch.testing.assert_close(found, torch.zeros(5), atol=1e-5, rtol=0)
    else:
        assert found[1:].min() > 1e-3  # patches have attended to each other in earlier blocks


# --- dense_roi ---------------------------------------------------------------------------------------------------


def test_value_only_block_mixes_no_tokens_and_equals_the_block_for_equal_tokens(tiny_config: RogleConfig) -> None:
    layer = with_feature(tiny_config, "dense_roi").vision_model.encoder.layers[-1]
    equal = torch.randn(2, 1, 32).expand(-1, 7, -1)  # attention over equal tokens reads one value
    torch.testing.assert_close(value_only_block(layer, equal), layer(equal, None), atol=1e-5, rtol=0)
    one = torch.randn(1, 7, 32)
    two = one.clone()
    two[:, 3] += 1
    changed = (value_only_block(layer, one) - value_only_block(layer, two)).abs().amax((0, 2)) > 0
    assert changed.tolist() == [token == 3 for token in range(7)]


def test_dense_roi_is_the_projected_roi_of_values(tiny_config: RogleConfig, pixels: torch.Tensor) -> None:
    model = with_feature(tiny_config, "dense_roi")
    before = model.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
    values = value_only_block(model.vision_model.encoder.layers[-1], before)[:, 1:]
    pooled = roi_align(values, BOXES, BOX_IMAGE, GRID)[:, 0, 0]
    expected = model.visual_projection(model.vision_model.post_layernorm(pooled))
    torch.testing.assert_close(regions_of(model, pixels, BOXES, BOX_IMAGE), nn.functional.normalize(expected, dim=-1))


# --- crop --------------------------------------------------------------------------------------------------------


def test_crop_of_the_whole_image_is_its_embedding(tiny_config: RogleConfig, pixels: torch.Tensor) -> None:
    model = with_feature(tiny_config, "crop")
    images, regions = model.encode_images(pixels, torch.tensor([WHOLE] * 3), torch.tensor([1, 2, 0]))
    torch.testing.assert_close(regions, images[[1, 2, 0]], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("feature", "forwards"), [("patch_mean", 1), ("dense_roi", 1), ("crop", 3)])
def test_only_crops_cost_more_forwards(
    tiny_config: RogleConfig, pixels: torch.Tensor, feature: str, forwards: int
) -> None:
    model, sizes = with_feature(tiny_config, feature), []
    hook = model.vision_model.register_forward_hook(lambda _, __, out: sizes.append(len(out.pooler_output)))
    boxes = torch.tensor([[0.0, 0.5, 1.0, 1.0]] * 20)
    model.encode_images(pixels, boxes, torch.arange(20) % 3)
    hook.remove()
    assert len(sizes) == forwards  # 20 crops, 16 at a time
    assert sum(sizes) == 3 + (20 if feature == "crop" else 0)
