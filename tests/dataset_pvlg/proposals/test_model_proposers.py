"""Proposers that read weights, through the real pipelines of transformers with tiny random models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPTokenizer,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
    SamConfig,
    SamModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.utils import is_torchvision_available

from dataset_pvlg.proposals.proposers import load_proposer
from train.small_model import train_tokenizer

SIZE = 64
TEXTS = ["A man wears a red jacket and black pants.", "His shoes are white.", "He is walking."]
PARTS = ("Background", "Hair", "Upper-clothes", "Left-shoe", "Right-shoe")
needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="mask generation needs torchvision")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """A person of three blocks on grey, with noise so that no two parts are equal."""
    pixels = np.full((120, 50, 3), 128, dtype=np.int64)
    pixels[5:25, 17:33] = (40, 20, 10)
    pixels[25:70, 10:40] = (200, 30, 30)
    pixels[70:115, 14:36] = (20, 20, 60)
    noise = np.random.default_rng(0).integers(-10, 10, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def special_tokens_last(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """Moves the special tokens last, as in CLIP; OWL-ViT treats a text that starts with token 0 as padding."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    count = len(backend["vocab"])
    vocab = {token: (number - 2) % count for token, number in backend["vocab"].items()}
    return CLIPTokenizer(vocab=vocab, merges=[tuple(pair) for pair in backend["merges"]], model_max_length=16)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    """A random OWL-ViT with scores near 0.5."""
    folder = tmp_path_factory.mktemp("owl") / "owlvit"
    tokenizer = special_tokens_last(train_tokenizer(TEXTS * 20, max_length=16))
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    OwlViTForObjectDetection(
        OwlViTConfig(
            projection_dim=32,
            vision_config={**tower, "image_size": SIZE, "patch_size": 16},
            text_config={
                **tower,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 16,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
        )
    ).save_pretrained(folder)
    images = OwlViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    OwlViTProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parser(tmp_path_factory) -> Path:
    """A random SegFormer with five classes and large weights, so that several classes win somewhere."""
    folder = tmp_path_factory.mktemp("parser") / "segformer"
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(
        SegformerConfig(
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[16, 16],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 1],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
            initializer_range=0.5,
            id2label=dict(enumerate(PARTS)),
            label2id={part: number for number, part in enumerate(PARTS)},
        )
    )
    model.save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Path:
    """A random SAM."""
    folder = tmp_path_factory.mktemp("sam") / "sam"
    torch.manual_seed(0)
    SamModel(
        SamConfig(
            vision_config={
                "hidden_size": 32,
                "output_channels": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": SIZE,
                "patch_size": 16,
                "window_size": 2,
                "num_pos_feats": 16,
                "global_attn_indexes": [0],
                "mlp_dim": 32,
            },
            prompt_encoder_config={
                "hidden_size": 32,
                "image_size": SIZE,
                "patch_size": 16,
                "mask_input_channels": 8,
                "image_embedding_size": 4,
            },
            mask_decoder_config={
                "hidden_size": 32,
                "mlp_dim": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 32,
            },
        )
    ).save_pretrained(folder)
    SamImageProcessorPil(
        size={"longest_edge": SIZE},
        pad_size={"height": SIZE, "width": SIZE},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(folder)
    return folder


def check(proposals, max_boxes: int) -> None:
    assert proposals.boxes.dtype == np.float32 and proposals.boxes.shape == (len(proposals.labels), 4)
    assert 2 <= len(proposals.boxes) <= max_boxes
    assert proposals.boxes[-1].tolist() == [0, 0, 1, 1] and proposals.labels[-1] == "whole person"
    assert (proposals.boxes >= 0).all() and (proposals.boxes <= 1).all()
    areas = (proposals.boxes[:-1, 2:] - proposals.boxes[:-1, :2]).prod(axis=1)
    assert (areas > 0.00499).all() and (areas < 0.80001).all()


def test_a_detector_searches_for_the_noun_phrases(detector, image):
    propose = load_proposer("open_vocabulary", detector, max_boxes=60)
    proposals = propose(image, TEXTS)
    check(proposals, 60)
    named = {"red jacket", "black pants", "shoes"}
    assert set(proposals.labels[:2]) <= named
    assert named & set(proposals.labels) and "head" in proposals.labels  # the templates are added
    again = propose(image, TEXTS)
    assert again.labels == proposals.labels
    np.testing.assert_array_equal(again.boxes, proposals.boxes)


def test_sentences_without_noun_phrases_leave_the_templates(detector, image):
    proposals, templates = (
        load_proposer("open_vocabulary", detector)(image, ["He is tall."]),
        load_proposer("templates"),
    )
    assert proposals.labels == templates(image, []).labels


def test_a_parser_proposes_parts_and_pairs_of_parts(parser, image):
    proposals = load_proposer("parser", parser)(image.convert("L"), [])
    check(proposals, 120)
    of_model = [label for label in proposals.labels if label.split(" and ")[0] in PARTS]
    assert of_model and proposals.labels[: len(of_model)] == tuple(of_model)
    assert not any("Background" in label for label in of_model)


@needs_torchvision
def test_masks_give_boxes(segmenter, image):
    check(load_proposer("sam", segmenter)(image, []), 120)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is there")
def test_masks_without_torchvision_are_one_line(segmenter):
    with pytest.raises(ImportError, match="proposer sam: mask generation needs torchvision") as caught:
        load_proposer("sam", segmenter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["open_vocabulary", "parser"])
def test_a_model_of_another_kind_is_one_line(name, tmp_path, tiny_checkpoint):
    for folder in (tmp_path / "gone", tiny_checkpoint):
        with pytest.raises(ValueError, match=f"proposer {name}: {folder} cannot be loaded") as caught:
            load_proposer(name, folder)
        assert "\n" not in str(caught.value)
