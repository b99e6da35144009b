"""A Rogle model -> two ONNX files, one a tower, checked against the model; and the same in int8.

    rogle_onnx.json      format, fingerprint of the model, sizes, pixels, regions, the files with their hashes
    text.onnx            input_ids [n, l] int64 -> embeds [n, D]
    image.onnx           pixel_values [b, 3, height, width], boxes [b, t, 4] -> images [b, D], regions [b, t, D]
    text.int8.onnx, image.int8.onnx   weights in int8, activations quantised as they come
    tokenizer.json       of the `tokenizers` library
    calibration.json     the model's, where it has one

n, l, b and t are free, height and width the model's own; all embeddings are unit vectors. `onnx_towers.py` runs them
without torch. Needs `pip install rogle[export]`.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modeling_rogle.inference.loading import fingerprint, load_model
from modeling_rogle.inference.onnx_encoder import FORMAT, MANIFEST, TOKENIZER, VERSION, OnnxError, session
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.search.calibration import FILE as CALIBRATION
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes

TOLERANCE = 1e-4  # of every number of a unit vector
OPSET = 20
_ONE_FILE = 1 << 30  # bytes of weights beyond which they stand beside the graph: an ONNX file ends at 2 GiB
_QUANTISED = ["MatMul", "Gemm", "Gather"]  # linear layers and the token table; a convolution would gain nothing


@dataclass(frozen=True)
class Exported:
    """What [`export_onnx`] wrote: the folder, bytes by file, and by tower the largest difference from the model."""

    folder: Path
    sizes: dict[str, int]
    difference: dict[str, float]


class TextTower(nn.Module):
    """`[n, l]` token ids, padded on the right -> `[n, D]` unit vectors.

    As [`RogleModel.encode_texts`]; that one packs texts by their lengths, which a graph cannot. The causal mask is
    written out: what follows the end of a text cannot matter.
    """

    def __init__(self, model: RogleModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        text, (n, length) = self.model.text_model, input_ids.shape
        states = text.embeddings(input_ids=input_ids, position_ids=torch.arange(length)[None])
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
        for layer in text.encoder.layers:
            states = layer(states, mask)
        end = text.eos_token_id
        # 2 stands for CLIP's old configurations, in which the greatest id ends the text.
        ends = input_ids.argmax(-1) if end == 2 else (input_ids == end).int().argmax(-1)
        pooled = text.final_layer_norm(states)[torch.arange(n), ends]
        return nn.functional.normalize(self.model.text_projection(pooled), dim=-1)


class ImageTower(nn.Module):
    """`[b, 3, height, width]` pixels and `[b, t, 4]` boxes in [0, 1] -> `[b, D]` and `[b, t, D]` unit vectors."""

    def __init__(self, model: RogleModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, each = boxes.shape[:2]
        owner = torch.arange(count)[:, None].expand(count, each).flatten()
        images, regions = self.model.encode_images(pixel_values, boxes.flatten(0, 1), owner)
        return images, regions.unflatten(0, (count, each))


def export_onnx(model_dir: str | Path, out: str | Path, int8: bool = True) -> Exported:
    """Exports both towers of a model and checks them in onnxruntime against it.

    Args:
        model_dir: folder or Hub name of a Rogle or CLIP model with its processor.
        out: new folder, written in one step.
        int8: write the int8 files too. What they lose is measured by `benchmarks/quality/int8.py`.

    Raises:
        OnnxError: a package is missing, `out` is there already, the model's regions are crops (one image forward each,
            no graph of a fixed number), or a graph differs from the model by more than 1e-4.
    """
    out = Path(out)
    if out.exists():
        raise OnnxError(f"{out}: exists already; nothing is overwritten")
    _needed("onnx", "onnxscript", "onnxruntime")
    model, processor = load_model(model_dir)
    model = model.cpu().eval()
    if model.config.region_feature == "crop":
        raise OnnxError(f"{model_dir}: region_feature 'crop' is one image forward a region, which no graph holds")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".rogle-export-", dir=out.parent))
    part = scratch / "onnx"
    part.mkdir()
    try:
        _export(TextTower(model), (_ids(model, 2, 9),), {"input_ids": "nl"}, ["embeds"], part / "text.onnx")
        _export(
            ImageTower(model),
            (_pixels(model, 2), _boxes(2)),
            {"pixel_values": "b", "boxes": "bt"},
            ["images", "regions"],
            part / "image.onnx",
        )
        difference = check(part, model)
        if int8:
            quantise(part)
        processor.tokenizer.backend_tokenizer.save(str(part / TOKENIZER))
        if (Path(model_dir) / CALIBRATION).is_file():
            shutil.copyfile(Path(model_dir) / CALIBRATION, part / CALIBRATION)
        _write_manifest(part, model, processor, difference)
        sizes = {file.name: file.stat().st_size for file in sorted(part.iterdir())}
        os.replace(part, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Exported(out, sizes, difference)


def check(folder: Path, model: RogleModel) -> dict[str, float]:
    """The largest difference of any number of the exported embeddings from the model's, by tower, in onnxruntime.

    Other numbers of texts, tokens, images and boxes are tried than those that the graphs were traced with.

    Raises:
        OnnxError: more than 1e-4.
    """
    found = {"text": 0.0, "image": 0.0}
    text, image = (session(folder / f"{tower}.onnx") for tower in found)
    longest = model.config.text_config.max_position_embeddings
    for count, length in ((1, 3), (5, min(40, longest)), (2, longest)):
        ids = _ids(model, count, length)
        difference = model.encode_texts(ids).numpy() - text.run(None, {"input_ids": ids.numpy()})[0]
        found["text"] = max(found["text"], float(np.abs(difference).max()))
    for count, each in ((1, None), (3, 4)):
        pixels, boxes = _pixels(model, count), _boxes(count, each)
        owner = torch.arange(count).repeat_interleave(boxes.shape[1])
        expected = model.encode_images(pixels, boxes.flatten(0, 1), owner)
        got = image.run(None, {"pixel_values": pixels.numpy(), "boxes": boxes.numpy()})
        for ours, theirs in zip(expected, got, strict=True):
            difference = ours.numpy() - theirs.reshape(ours.shape)
            found["image"] = max(found["image"], float(np.abs(difference).max()))
    for tower, largest in found.items():
        if not largest <= TOLERANCE:
            raise OnnxError(f"{tower}.onnx: differs from the model by {largest:.1e}, more than {TOLERANCE:.0e}")
    return found


def quantise(folder: Path) -> None:
    """Writes `text.int8.onnx` and `image.int8.onnx` beside the two graphs: dynamic quantisation, a scale a column."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for tower in ("text", "image"):
        target = folder / f"{tower}.int8.onnx"
        graph = onnx.load(folder / f"{tower}.onnx")
        _unshare(graph)
        with _quiet():
            quantize_dynamic(
                graph,
                target,
                op_types_to_quantize=_QUANTISED,
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=(folder / f"{tower}.onnx.data").is_file(),
            )


def _unshare(graph: Any) -> None:
    """A copy of its own for every further layer that reads the same weights.

    The quantiser turns the weights of a Gemm in place, once for each that reads them: of an image tower, whose
    projection serves images and regions, nothing was left (cosine 0 with the model).
    """
    seen, weights = set(), {initializer.name: initializer for initializer in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type != "Gemm" or node.input[1] not in weights:
            continue
        name = node.input[1]
        if name in seen:
            copy = graph.graph.initializer.add()
            copy.CopyFrom(weights[name])
            copy.name = node.input[1] = f"{name} of {node.name}"
        seen.add(name)


def _export(
    tower: nn.Module, example: tuple[torch.Tensor, ...], inputs: dict[str, str], outputs: Sequence[str], file: Path
) -> None:
    """Inputs by name, with a letter for each of the first axes that is free."""
    free = {name: {axis: letter for axis, letter in enumerate(letters)} for name, letters in inputs.items()}
    weights = sum(parameter.numel() * 4 for parameter in tower.parameters())
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            tower.eval(),
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=free,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        program.save(file, external_data=weights > _ONE_FILE)


def _ids(model: RogleModel, count: int, length: int) -> torch.Tensor:
    """Random token ids with the end of text in a different place in each row."""
    text, random = model.config.text_config, torch.Generator().manual_seed(0)
    ids = torch.randint(0, text.vocab_size, (count, length), generator=random)
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    ids[ids == end] = 0
    for row in range(count):
        ids[row, length - 1 - row % (length - 1) :] = end
    return ids


def _pixels(model: RogleModel, count: int) -> torch.Tensor:
    return torch.randn(count, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))


def _boxes(count: int, each: int | None = None) -> torch.Tensor:
    return torch.from_numpy(template_boxes())[:each].repeat(count, 1, 1)


def _write_manifest(folder: Path, model: RogleModel, processor: RogleProcessor, difference: dict[str, float]) -> None:
    text, images = model.config.text_config, processor.image_processor
    about = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint(model),
        "dimension": model.config.projection_dim,
        "local_weight": float(model.config.local_weight),
        "max_tokens": min(processor.tokenizer.model_max_length, text.max_position_embeddings),
        "end_token": processor.tokenizer.eos_token_id,
        "image_size": list(model.config.image_size),
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "resample": int(images.resample),
        "template_boxes": template_boxes().tolist(),
        "template_labels": list(TEMPLATE_LABELS),
        "difference": difference,
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for file in sorted(folder.iterdir())
        },
    }
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _needed(*names: str) -> None:
    import importlib.util

    for name in names:
        if importlib.util.find_spec(name) is None:
            raise OnnxError(f"{name} is not installed; pip install 'rogle[export]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's and the quantiser's talk, about operators that are not used here, is kept off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


__all__ = ["Exported", "ImageTower", "TextTower", "check", "export_onnx", "quantise"]
