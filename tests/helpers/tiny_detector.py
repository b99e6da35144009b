"""A tiny person detector with random weights."""

from pathlib import Path

import torch
from transformers import YolosConfig, YolosForObjectDetection
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil


def make_detector(folder: Path, labels: tuple[str, ...] = ("person", "dog")) -> Path:
    """Saves a random YOLOS that detects the first label twice in every image."""
    torch.manual_seed(0)
    model = YolosForObjectDetection(
        YolosConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=[64, 64],
            patch_size=16,
            num_detection_tokens=2,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            use_mid_position_embeddings=False,
        )
    )
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].bias[0] = 4.0
        # Different detection tokens give two persons side by side.
        model.bbox_predictor.layers[-1].weight.normal_(std=0.5)
        model.vit.embeddings.detection_tokens.normal_()
    model.save_pretrained(folder)
    YolosImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
