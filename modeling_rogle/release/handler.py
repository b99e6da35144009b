"""Handler for Hugging Face Inference Endpoints: texts and images in, unit embeddings and cosines out.

The file is released in the folder of the weights, where the toolkit of the endpoint finds it. It also works from the
installed package.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

MAX_ITEMS = 256  # texts, and also images, per request
BATCH_SIZE = 32  # images per forward pass
MAX_PIXELS = 64_000_000  # per image, checked before it is decoded


class EndpointHandler:
    """The toolkit calls `EndpointHandler(path)` once, and then the object for each request."""

    def __init__(self, path: str = ""):
        """Loads the model, on a GPU if there is one, and its processor.

        Code in the folder is executed only if this file is part of that folder, as in a released model. For any other
        folder the installed package is used.

        Args:
            path: the folder of the model.

        Raises:
            ImportError: the folder is another one, and `modeling_rogle` is not installed.
            OSError: the folder has no model or processor.
        """
        # The Hub's cache links each file to its content, so compare folders and not the targets of links.
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
            data: `{"inputs": {"text": [...], "images": [...]}}` with one or both fields; a string is a list of one.
                Images are base64 of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file; a prefix `data:...;base64,` is
                allowed. Or the request of `InferenceClient.zero_shot_image_classification`:
                `{"inputs": image, "parameters": {"candidate_labels": [...], "hypothesis_template": "{}"}}`. The
                toolkit decodes the image if the body of the request is one.

        Returns:
            `text_embeds` (one row per text), `image_embeds` (one row per image), all of unit length, and with both
            also `similarity` (for each text a row of cosines). With candidate labels: `[{"label", "score"}]`, the
            highest first; the scores sum to one. After an error: `{"error": one line}`.
        """
        try:
            if isinstance(data, dict) and _has_labels(data):
                return self._classify(self._labelled_image(data.get("inputs")), *_read_labels(data))
            texts, encoded = _read(data)
            # Each image is resized at once: 256 images in full size would fill the memory.
            pixels = [self._pixels(item, number) for number, item in enumerate(encoded)]
        except ValueError as error:
            return {"error": str(error)}
        answer, text_embeds, image_embeds = {}, None, None
        if texts:
            tokens = self.processor(text=texts, return_tensors="pt")
            text_embeds = self.model.encode_texts(tokens["input_ids"].to(self.device)).cpu()
            answer["text_embeds"] = text_embeds.tolist()
        if pixels:
            parts = [torch.cat(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE)]
            image_embeds = torch.cat([self.model.encode_images(part.to(self.device))[0].cpu() for part in parts])
            answer["image_embeds"] = image_embeds.tolist()
        if text_embeds is not None and image_embeds is not None:
            answer["similarity"] = (text_embeds @ image_embeds.T).tolist()
        return answer

    def _classify(self, image: Image.Image, labels: list[str], template: str) -> list[dict[str, Any]]:
        pixels = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        tokens = self.processor(text=[template.replace("{}", label) for label in labels], return_tensors="pt")
        texts = self.model.encode_texts(tokens["input_ids"].to(self.device))
        cosines = texts @ self.model.encode_images(pixels.to(self.device))[0][0]
        scores = (self.model.logit_scale.exp() * cosines).softmax(-1).tolist()
        results = [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
        return sorted(results, key=lambda item: -item["score"])

    def _labelled_image(self, image: Any) -> Image.Image:
        if isinstance(image, Image.Image):
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"inputs: over {MAX_PIXELS // 1_000_000} million pixels")
            return self.processor.read_image(image)
        if not isinstance(image, str) or not image.strip():
            raise ValueError("inputs: must be one image in base64 if there are candidate labels")
        return self._image(image, "inputs")

    def _image(self, encoded: str, name: str) -> Image.Image:
        if encoded.startswith("data:"):
            encoded = encoded.partition(",")[2]
        try:
            content = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{name}: not base64") from error
        try:
            return self.processor.read_image(content)
        except ValueError as error:  # the reader's ImageError, of the module that the model was loaded from
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from error

    def _pixels(self, encoded: str, number: int) -> torch.Tensor:
        image = self._image(encoded, f"inputs.images[{number}]")
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
        raise ValueError("inputs: contains neither text nor images")
    return texts, encoded


def _has_labels(data: dict[str, Any]) -> bool:
    return isinstance(data.get("parameters"), dict) and data["parameters"].get("candidate_labels") is not None


def _read_labels(data: dict[str, Any]) -> tuple[list[str], str]:
    parameters = dict(data["parameters"])
    if isinstance(parameters["candidate_labels"], str):  # from a query string or the widget
        parameters["candidate_labels"] = [label.strip() for label in parameters["candidate_labels"].split(",")]
    labels = _strings(parameters, "candidate_labels", "parameters")
    if not labels:
        raise ValueError("parameters.candidate_labels: is empty")
    template = parameters.get("hypothesis_template") or "{}"
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError('parameters.hypothesis_template: must be a text that contains "{}" once')
    return labels, template


def _strings(inputs: dict[str, Any], field: str, within: str = "inputs") -> list[str]:
    value, name = inputs.get(field), f"{within}.{field}"
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError(f"{name}: must be a list of strings, not {type(items).__name__}")
    if len(items) > MAX_ITEMS:
        raise ValueError(f"{name}: {len(items)} entries, at most {MAX_ITEMS} per request")
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise ValueError(f"{name}[{number}]: must be a string, not {type(item).__name__}")
        # Halves of emojis, control characters and characters of no width are not text.
        if not any(character.isprintable() and not character.isspace() for character in item):
            raise ValueError(f"{name}[{number}]: is empty")
    return items
