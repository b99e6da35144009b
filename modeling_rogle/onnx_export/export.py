"""Export of a Rogle model to ONNX: two graphs that are compared with the model, and both again in int8.

    rogle_onnx.json      format, fingerprint of the model, sizes, preprocessing, template boxes, files with SHA-256
    text.onnx            input_ids [n, l] int64 -> embeds [n, D]
    image.onnx           pixel_values [b, 3, height, width], boxes [b, t, 4] -> images [b, D], regions [b, t, D]
    text.int8.onnx, image.int8.onnx   weights in int8, activations quantised dynamically
    tokenizer.json       for the `tokenizers` library
    calibration.json     copied from the model, if it has one

n, l, b and t are dynamic, height and width are fixed. All embeddings are unit vectors. `inference/onnx_encoder.py` runs
the export without torch. Exporting needs `pip install rogle[export]`.
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

from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
from modeling_rogle.inference.loading import fingerprint, load_model
from modeling_rogle.inference.onnx_encoder import (
    CALIBRATION,
    FORMAT,
    MANIFEST,
    TOKENIZER,
    VERSION,
    OnnxError,
    open_session,
)
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.text_packing import encode_padded

TOLERANCE = 1e-4  # largest difference of a component of a unit vector
OPSET = 20
_MAX_INLINE_BYTES = 1 << 30  # larger weights are stored next to the graph: an ONNX file is limited to 2 GiB
_QUANTISED = ["MatMul", "Gemm", "Gather"]  # linear layers and token embeddings; a convolution does not get faster


@dataclass(frozen=True)
class Exported:
    """What [`export_onnx`] wrote.

    Attributes:
        folder: the folder.
        sizes: bytes of each file.
        difference: largest difference from the model for `text` and `image`.
    """

    folder: Path
    sizes: dict[str, int]
    difference: dict[str, float]


class TextGraph(nn.Module):
    """[`RogleModel.encode_texts`] without its packing of texts, which a graph cannot express.

    Token ids `[n, l]`, padded on the right, become `[n, D]` unit vectors.
    """

    def __init__(self, model: RogleModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        pooled, _ = encode_padded(self.model.text_model, input_ids)
        return nn.functional.normalize(self.model.text_projection(pooled), dim=-1)


class ImageGraph(nn.Module):
    """[`RogleModel.encode_images`] for images with the same number of regions each.

    Pixels `[b, 3, height, width]` and boxes `[b, t, 4]` in [0, 1] become `[b, D]` and `[b, t, D]` unit vectors.
    """

    def __init__(self, model: RogleModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, each = boxes.shape[:2]
        owner = torch.arange(count)[:, None].expand(count, each).flatten()
        images, regions = self.model.encode_images(pixel_values, boxes.flatten(0, 1), owner)
        return images, regions.unflatten(0, (count, each))


def export_onnx(model_dir: str | Path, out: str | Path, int8: bool = True) -> Exported:
    """Exports a model and compares the float32 graphs in onnxruntime with it.

    Args:
        model_dir: folder or Hub name of a Rogle or CLIP model with its processor.
        out: new folder, written in one step.
        int8: also write the int8 files. `benchmarks/quality/int8.py` measures their accuracy. Default: True.

    Raises:
        OnnxError: a package is missing, `out` exists, a graph differs from the model by more than 1e-4, or the model
            encodes regions as crops (one forward pass for each region).
    """
    out = Path(out)
    if out.exists():
        raise OnnxError(f"{out}: already exists; nothing is overwritten")
    _check_installed("onnx", "onnxscript", "onnxruntime")
    model, processor = load_model(model_dir)
    model = model.cpu().eval()
    if model.config.region_feature == "crop":
        raise OnnxError(
            f"{model_dir}: region_feature 'crop' needs a forward pass for each region and cannot be exported"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".rogle-export-", dir=out.parent))
    new = scratch / "onnx"
    new.mkdir()
    try:
        text_inputs, image_inputs = (_random_ids(model, 2, 9),), (_random_pixels(model, 2), _boxes(2))
        _export(TextGraph(model), text_inputs, {"input_ids": "nl"}, ["embeds"], new / "text.onnx")
        axes = {"pixel_values": "b", "boxes": "bt"}
        _export(ImageGraph(model), image_inputs, axes, ["images", "regions"], new / "image.onnx")
        difference = check(new, model)
        if int8:
            quantise(new)
        processor.tokenizer.backend_tokenizer.save(str(new / TOKENIZER))
        if (Path(model_dir) / CALIBRATION).is_file():
            shutil.copyfile(Path(model_dir) / CALIBRATION, new / CALIBRATION)
        _write_manifest(new, model, processor, difference)
        sizes = {file.name: file.stat().st_size for file in sorted(new.iterdir())}
        os.replace(new, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Exported(out, sizes, difference)


def check(folder: Path, model: RogleModel) -> dict[str, float]:
    """Compares the exported float32 graphs in onnxruntime with the model.

    The numbers of texts, tokens, images and boxes differ from those of the export.

    Args:
        folder: folder with `text.onnx` and `image.onnx`.
        model: the model.

    Returns:
        The largest difference of a component for `text` and `image`.

    Raises:
        OnnxError: a difference exceeds 1e-4.
    """
    largest = {"text": 0.0, "image": 0.0}
    text, image = (open_session(folder / f"{name}.onnx") for name in largest)
    max_length = model.config.text_config.max_position_embeddings
    for count, length in ((1, 3), (5, min(40, max_length)), (2, max_length)):
        ids = _random_ids(model, count, length)
        difference = model.encode_texts(ids).numpy() - text.run(None, {"input_ids": ids.numpy()})[0]
        largest["text"] = max(largest["text"], float(np.abs(difference).max()))
    for count, boxes_each in ((1, None), (3, 4)):
        pixels, boxes = _random_pixels(model, count), _boxes(count, boxes_each)
        box_image = torch.arange(count).repeat_interleave(boxes.shape[1])
        expected = model.encode_images(pixels, boxes.flatten(0, 1), box_image)
        outputs = image.run(None, {"pixel_values": pixels.numpy(), "boxes": boxes.numpy()})
        for ours, exported in zip(expected, outputs, strict=True):
            difference = ours.numpy() - exported.reshape(ours.shape)
            largest["image"] = max(largest["image"], float(np.abs(difference).max()))
    for name, value in largest.items():
        if not value <= TOLERANCE:
            raise OnnxError(f"{name}.onnx: differs from the model by {value:.1e}, more than {TOLERANCE:.0e}")
    return largest


def quantise(folder: Path) -> None:
    """Writes `text.int8.onnx` and `image.int8.onnx` next to the float32 graphs of a folder.

    Dynamic quantisation with one scale for each column of a weight matrix.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in ("text", "image"):
        target = folder / f"{name}.int8.onnx"
        graph = onnx.load(folder / f"{name}.onnx")
        _unshare_weights(graph)
        with _quiet():
            quantize_dynamic(
                graph,
                target,
                op_types_to_quantize=_QUANTISED,
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=(folder / f"{name}.onnx.data").is_file(),
            )


def _unshare_weights(graph: Any) -> None:
    """Gives each Gemm node its own copy of its weights.

    The quantiser transposes the weights of a Gemm in place, once for each node that uses them. Without copies the image
    projection, used for images and regions, is transposed twice, and the embeddings have cosine 0 with the model's.
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
    graph: nn.Module, example: tuple[torch.Tensor, ...], axes: dict[str, str], outputs: Sequence[str], file: Path
) -> None:
    """Exports one graph. `axes` maps each input to one letter for each of its leading axes that are dynamic."""
    dynamic = {name: dict(enumerate(letters)) for name, letters in axes.items()}
    weights = sum(parameter.numel() * 4 for parameter in graph.parameters())
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            example,
            input_names=list(axes),
            output_names=list(outputs),
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        program.save(file, external_data=weights > _MAX_INLINE_BYTES)


def _random_ids(model: RogleModel, count: int, length: int) -> torch.Tensor:
    """Random token ids `[count, length]` with the end token at a different position in each row."""
    text, random = model.config.text_config, torch.Generator().manual_seed(0)
    ids = torch.randint(0, text.vocab_size, (count, length), generator=random)
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    ids[ids == end] = 0
    for row in range(count):
        ids[row, length - 1 - row % (length - 1) :] = end
    return ids


def _random_pixels(model: RogleModel, count: int) -> torch.Tensor:
    return torch.randn(count, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))


def _boxes(images: int, boxes_each: int | None = None) -> torch.Tensor:
    return torch.from_numpy(template_boxes())[:boxes_each].repeat(images, 1, 1)


def _write_manifest(folder: Path, model: RogleModel, processor: RogleProcessor, difference: dict[str, float]) -> None:
    text, images = model.config.text_config, processor.image_processor
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint(model),
        "dimension": model.config.projection_dim,
        "local_weight": model.config.late_interaction_weight,
        "max_tokens": min(processor.tokenizer.model_max_length, text.max_position_embeddings),
        "end_token": processor.tokenizer.eos_token_id,
        "image_size": list(model.config.image_size),
        "fit": processor.fit,
        "trained_regions": model.config.trained_regions,
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
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _check_installed(*names: str) -> None:
    import importlib.util

    for name in names:
        if importlib.util.find_spec(name) is None:
            raise OnnxError(f"{name} is not installed; pip install 'rogle[export]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses messages of the exporter and the quantiser about operators that are not used here."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


__all__ = ["Exported", "ImageGraph", "TextGraph", "check", "export_onnx", "quantise"]
