"""Tiny random diffusers pipelines."""

from pathlib import Path

import pytest

from train.small_model import train_tokenizer


@pytest.fixture(scope="module", params=["instruction", "inversion"])
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random InstructPix2Pix or Stable Diffusion pipeline."""
    diffusers = pytest.importorskip("diffusers")
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["make the red jacket blue, black and white shoes"] * 20, max_length=16)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    follows_instructions = request.param == "instruction"
    name = "StableDiffusionInstructPix2PixPipeline" if follows_instructions else "StableDiffusionPipeline"
    pipeline = getattr(diffusers, name)(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            sample_size=64,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=8 if follows_instructions else 4,
            block_out_channels=(8,) * 3,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=8,
            norm_num_groups=4,
            attention_head_dim=4,
        ),
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("editor") / request.param
    pipeline.save_pretrained(folder)
    return folder
