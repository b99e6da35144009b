"""Folders with the configuration, image processor and vocabulary of public CLIP checkpoints, and random weights."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from modeling_rogle import RogleConfig, RogleProcessor

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# The id of the end of a text as old and new configurations state it. The old ones are wrong, and CLIPModel knows.
_OLD_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_NEW_IDS = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}


def _config(patch: int, width: int, text_width: int, act: str, ids: dict[str, int]) -> dict[str, Any]:
    shared = {"hidden_act": act, "layer_norm_eps": 1e-5, "attention_dropout": 0.0}
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    text = {"hidden_size": text_width, "intermediate_size": 4 * text_width, "num_attention_heads": text_width // 64}
    vision |= {"num_hidden_layers": 24 if width == 1024 else 12, "image_size": 224, "patch_size": patch}
    text |= {"num_hidden_layers": 12, "vocab_size": 49408, "max_position_embeddings": 77, **ids}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "projection_dim": text_width,
        "vision_config": vision | shared | {"projection_dim": text_width, "model_type": "clip_vision_model"},
        "text_config": text | shared | {"projection_dim": text_width, "model_type": "clip_text_model"},
    }


CONFIGS = {
    "openai/clip-vit-base-patch32": _config(32, 768, 512, "quick_gelu", _OLD_IDS),
    "openai/clip-vit-base-patch16": _config(16, 768, 512, "quick_gelu", _OLD_IDS),
    "openai/clip-vit-large-patch14": _config(14, 1024, 768, "quick_gelu", _OLD_IDS),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": _config(32, 768, 512, "gelu", _OLD_IDS),
    "facebook/metaclip-b32-400m": _config(32, 768, 512, "quick_gelu", _NEW_IDS),
}


def write_clip(folder: Path, name: str, layers: int | None = None) -> Path:
    """Writes a folder like that of a public checkpoint.

    Args:
        folder: the new folder.
        name: a key of CONFIGS.
        layers: number of blocks in each encoder. Default: those of the checkpoint.
    """
    folder.mkdir(parents=True)
    stored = json.loads(json.dumps(CONFIGS[name]))
    if layers is not None:
        for tower in ("vision_config", "text_config"):
            stored[tower]["num_hidden_layers"] = layers
    torch.manual_seed(0)
    CLIPModel(CLIPConfig.from_dict(stored)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(stored))  # save_pretrained adds fields that old files do not have
    square: Any = 224 if name == "openai/clip-vit-base-patch32" else {"height": 224, "width": 224}
    processor = {
        "crop_size": square,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 3,
        "size": square if isinstance(square, int) else {"shortest_edge": 224},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    vocab, merges = vocabulary()
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(folder)
    return folder


def write_small_clip(folder: Path, config: RogleConfig, processor: RogleProcessor) -> Path:
    """Writes a plain CLIP of the size of a tiny Rogle model, for squares of 64 px with patches of 32 px."""
    torch.manual_seed(0)
    vision = config.vision_config.to_dict() | {"image_size": 64, "patch_size": 32}
    text, dimension = config.text_config.to_dict(), config.projection_dim
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dimension)).save_pretrained(folder)
    square = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    CLIPProcessor(square, processor.tokenizer).save_pretrained(folder)
    return folder


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary and merges from the wheel of open_clip_torch; without it, made-up merges of the same number."""
    units = list(bytes_to_unicode().values())
    units += [unit + "</w>" for unit in units]
    count = 49408 - len(units) - 2
    package = find_spec("open_clip")
    if package is not None and package.submodule_search_locations:
        file = Path(package.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz")
        lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : count + 1]
        merges = [(line.split()[0], line.split()[1]) for line in lines]
    else:
        merges = [(first, second) for first in units[:256] for second in units[256:]][:count]
    tokens = [*units, *(first + second for first, second in merges), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges
