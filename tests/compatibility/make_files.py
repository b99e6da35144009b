"""Writes the files that test_old_files.py reads. Run it in a checkout of commit 2fbb0e3:

    git worktree add ../old 2fbb0e3 && cd ../old
    PYTHONPATH=.:train python PATH/TO/make_files.py OUT

Everything comes from one random model of 8 dimensions, 24 small images and three synthetic people.
`expected.json` holds the numbers that the old code computes from these files. The Hub folder comes without code.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from small_model import train_tokenizer
from transformers import CLIPImageProcessorPil

from dataset_pvlg.build import main as build
from dataset_pvlg.load import load_rows
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.cli import main as rogle
from modeling_rogle.gallery import Gallery
from modeling_rogle.matching import template_boxes
from modeling_rogle.release.model_files import save_for_hub

QUERY = "A man wears a red jacket and black pants. His shoes are white."
TEXTS = [QUERY, "He carries a blue bag over the left shoulder.", "a woman in a green coat"]


def tiny_model() -> tuple[RogleModel, RogleProcessor]:
    images = CLIPImageProcessorPil(size={"height": 32, "width": 16}, do_center_crop=False)
    processor = RogleProcessor(images, train_tokenizer(TEXTS * 20, max_length=64))
    tokenizer = processor.tokenizer
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RogleConfig(
        image_size=[32, 16],
        projection_dim=8,
        local_weight=0.4,
        vision_config={**tower, "image_size": 32, "patch_size": 8, "projection_dim": 8},
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "projection_dim": 8,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    torch.manual_seed(0)
    return RogleModel(config).eval(), processor


def draw_images(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        blocks = rng.integers(0, 256, (4, 2, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{number:02}.png")
    lines = [f'{{"file_name": "{n:02}.png", "camera": "c{n % 3}"}}' for n in range(24)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def embeddings(model: RogleModel, processor: RogleProcessor, folder: Path) -> dict:
    images = [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.png"))[:3]]
    boxes = torch.from_numpy(template_boxes())[[0, 4, 9]]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    whole, regions = model.encode_images(pixels, boxes, torch.arange(3))
    texts = model.encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    return {"images": whole.tolist(), "regions": regions.tolist(), "texts": texts.tolist()}


def search_results(index: Path, model: RogleModel, processor: RogleProcessor) -> list[dict]:
    gallery, found = Gallery.open(index, model, processor), []
    for options in ({}, {"local_weight": 0.0}, {"local_weight": 1.0, "top_k": 24}, {"where": "camera = 'c1'"}):
        matches = gallery.search(QUERY, **options)
        found.append(
            {
                "options": options,
                "paths": [match.path for match in matches],
                "scores": [match.score for match in matches],
                "probabilities": [match.probability for match in matches],
                "regions": [[sentence.label for sentence in match.sentences] for match in matches],
            }
        )
    return found


def main(out: Path) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True)
    model, processor = tiny_model()
    model.save_pretrained(out / "checkpoint")
    processor.save_pretrained(out / "checkpoint")
    model = RogleModel.from_pretrained(out / "checkpoint").eval()
    draw_images(out / "images")
    expected = {"embeddings": embeddings(model, processor, out / "images")}

    Gallery.build(out / "images", model, processor, out / "index", progress=False)
    command = [
        "calibrate",
        "--dataset",
        "synthetic-tiny",
        "--model",
        str(out / "checkpoint"),
        "--out",
        str(out / "index"),
    ]
    assert rogle(command) == 0
    expected["search"] = search_results(out / "index", model, processor)
    # Absolute paths of the machine that made the files would only be noise.
    header = json.loads((out / "index" / "index.json").read_text()) | {"folder": "/nowhere/images"}
    header["model"]["path"] = "/nowhere/checkpoint"
    (out / "index" / "index.json").write_text(json.dumps(header, indent=1))

    save_for_hub(model, processor, out / "hub")
    for file in [*(out / "hub").glob("*.py"), out / "hub" / "requirements.txt"]:
        file.unlink()

    torch.manual_seed(1)
    targets = ["q_proj", "v_proj"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    config = json.loads((out / "adapter" / "adapter_config.json").read_text()) | {"base_model_name_or_path": None}
    (out / "adapter" / "adapter_config.json").write_text(json.dumps(config, indent=1))
    expected["adapted_texts"] = (
        adapted.merge_and_unload().encode_texts(**processor(text=TEXTS, return_tensors="pt")).tolist()
    )

    assert build(["--source", "synthetic=3x1", "--out", str(out / "dataset")]) == 0
    expected["dataset"] = {}
    rows = load_rows("pvlg", out / "dataset")[0]
    for split in rows:
        expected["dataset"][split] = [
            {name: value for name, value in row.items() if name != "image"} | {"size": list(row["image"].size)}
            for row in rows[split]
        ]
    (out / "expected.json").write_text(json.dumps(expected, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
