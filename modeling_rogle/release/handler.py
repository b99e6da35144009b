"""Inference Endpoints: text and images in, unit embeddings and their similarity out.

This file is pushed beside the weights, where the endpoint's toolkit finds it; it also works from the installed package.
"""

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import AutoModel, AutoProcessor

MAX_ITEMS = 256  # texts, and images, of one request
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # none that starts another program, as EPS does
AT_ONCE = 32  # images a forward pass
MAX_PIXELS = 64_000_000  # of one image, before it is decoded


class EndpointHandler:
    """The toolkit calls `EndpointHandler(path)` once, then the object with each request's JSON."""

    def __init__(self, path: str = ""):
        """Loads model (on the GPU when there is one) and processor from the folder `path`.

        Code in that folder runs only if this very file lies in it, as in a pushed model: then it is as trusted as this
        file is. For any other folder the installed package does the work.

        Raises:
            ImportError: another folder, and `modeling_rogle` is not installed.
            OSError: no model or processor there.
        """
        # The Hub's cache links each file to its content: it is the folder that counts, not where this link leads.
        released = Path(path).resolve() == Path(__file__).parent.resolve()
        if not released:
            import modeling_rogle  # noqa: F401  registers the classes with AutoModel and AutoProcessor
        self.device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        model = AutoModel.from_pretrained(path, trust_remote_code=released, dtype=torch.float32)
        self.model = model.eval().to(self.device)
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=released)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Answers one request.

        Args:
            data: `{"inputs": {"text": [...], "images": [...]}}`, either or both; one string stands for a list of one.
                Images are base64 of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, with or without
                `data:...;base64,` before it. Or, as `InferenceClient.zero_shot_image_classification` asks,
                `{"inputs": image, "parameters": {"candidate_labels": [...], "hypothesis_template": "{}"}}`; the
                toolkit itself decodes the image of a request whose body is one.

        Returns:
            `text_embeds` (a row for each text) and `image_embeds` (a row for each image), unit length, and with both
            `similarity`, a row of cosines for each text. Or, with candidate labels, `[{"label", "score"}]`, the highest
            first, which sum to one. Or `{"error": one line}`, and nothing was computed.
        """
        try:
            if isinstance(data, dict) and _labels_asked(data):
                return self._classified(*_read_labels(data))
            texts, encoded = _read(data)
            # One at a time, and kept at the size that the model reads: whole, 256 images would fill the memory.
            pixels = [self._pixels(item, number) for number, item in enumerate(encoded)]
        except ValueError as error:
            return {"error": str(error)}
        answer, text_embeds, image_embeds = {}, None, None
        if texts:
            tokens = self.processor(text=texts, return_tensors="pt")
            text_embeds = self.model.encode_texts(tokens["input_ids"].to(self.device)).cpu()
            answer["text_embeds"] = text_embeds.tolist()
        if pixels:
            parts = [torch.cat(pixels[start : start + AT_ONCE]) for start in range(0, len(pixels), AT_ONCE)]
            image_embeds = torch.cat([self.model.encode_images(part.to(self.device))[0].cpu() for part in parts])
            answer["image_embeds"] = image_embeds.tolist()
        if texts and pixels:
            answer["similarity"] = (text_embeds @ image_embeds.T).tolist()
        return answer

    def _classified(self, image: Image.Image, labels: list[str], template: str) -> list[dict[str, Any]]:
        pixels = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        tokens = self.processor(text=[template.replace("{}", label) for label in labels], return_tensors="pt")
        texts = self.model.encode_texts(tokens["input_ids"].to(self.device))
        cosines = texts @ self.model.encode_images(pixels.to(self.device))[0][0]
        shares = (self.model.logit_scale.exp() * cosines).softmax(-1).tolist()
        found = [{"label": label, "score": share} for label, share in zip(labels, shares, strict=True)]
        return sorted(found, key=lambda item: -item["score"])

    def _pixels(self, encoded: str, number: int) -> torch.Tensor:
        image = _image(encoded, f"inputs.images[{number}]")
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]


def _read(data: Any) -> tuple[list[str], list[str]]:
    inputs = data.get("inputs") if isinstance(data, dict) else None
    if not isinstance(inputs, dict):
        raise ValueError('inputs: must be {"text": [...]}, {"images": [...]} or both')
    unknown = sorted(set(inputs) - {"text", "images"}, key=str)
    if unknown:
        raise ValueError(f"inputs: unknown field {json.dumps(unknown[0])}; fields are text, images")
    texts, encoded = _strings(inputs, "text"), _strings(inputs, "images")
    if not texts and not encoded:
        raise ValueError("inputs: neither text nor images in it")
    return texts, encoded


def _labels_asked(data: dict[str, Any]) -> bool:
    return isinstance(data.get("parameters"), dict) and data["parameters"].get("candidate_labels") is not None


def _read_labels(data: dict[str, Any]) -> tuple[Image.Image, list[str], str]:
    given = dict(data["parameters"])
    if isinstance(given["candidate_labels"], str):  # of a query string, or of the widget
        given["candidate_labels"] = [label.strip() for label in given["candidate_labels"].split(",")]
    labels = _strings(given, "candidate_labels", "parameters")
    if not labels:
        raise ValueError("parameters.candidate_labels: is empty")
    template = given.get("hypothesis_template") or "{}"
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError('parameters.hypothesis_template: must be a text with one "{}" in it')
    image = data.get("inputs")
    if isinstance(image, Image.Image):
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"inputs: over {MAX_PIXELS // 1_000_000} million pixels")
        return ImageOps.exif_transpose(image).convert("RGB"), labels, template
    if not isinstance(image, str) or not image.strip():
        raise ValueError("inputs: must be one image in base64 where there are candidate labels")
    return _image(image, "inputs"), labels, template


def _strings(inputs: dict[str, Any], field: str, within: str = "inputs") -> list[str]:
    given, name = inputs.get(field), f"{within}.{field}"
    items = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(items, list):
        raise ValueError(f"{name}: must be a list of strings, not {type(items).__name__}")
    if len(items) > MAX_ITEMS:
        raise ValueError(f"{name}: {len(items)} entries, at most {MAX_ITEMS} a request")
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise ValueError(f"{name}[{number}]: must be a string, not {type(item).__name__}")
        if not item.strip():
            raise ValueError(f"{name}[{number}]: is empty")
    return items


def _image(encoded: str, name: str) -> Image.Image:
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        content = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name}: not base64") from error
    too_large = f"{name}: over {MAX_PIXELS // 1_000_000} million pixels"
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image in a format that is read ({', '.join(FORMATS)})") from error
    except Exception as error:  # decoders meet hostile bytes here and raise almost anything
        raise ValueError(f"{name}: not an image, or damaged") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(too_large)
    try:
        # Phones store images lying on their side, with a note.
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        raise ValueError(f"{name}: not an image, or damaged") from error
