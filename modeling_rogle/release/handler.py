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
MAX_REQUEST_PIXELS = 4 * MAX_PIXELS  # of all images of a request
MAX_CHARACTERS = 200_000  # of all texts of a request; a caption has a few hundred


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
                toolkit decodes the image if the body of the request is one. Or what clients send for feature
                extraction and sentence similarity: `{"inputs": text}`, `{"inputs": [text, ...]}`,
                `{"inputs": {"source_sentence": text, "sentences": [...]}}`, or an image as the body.

        Returns:
            `text_embeds` (one row per text), `image_embeds` (one row per image), all of unit length, and with both
            also `similarity` (for each text a row of cosines). With candidate labels: `[{"label", "score"}]`, the
            highest first; the scores sum to one. For a text, a list of texts or an image as the body: one row each.
            With a source sentence: its cosine with each sentence. After an error: `{"error": one line}`.
        """
        try:
            if isinstance(data, dict) and _has_labels(data):
                labels, template = _read_labels(data)
                return self._classify(self._labelled_image(data.get("inputs")), labels, template)
            inputs = data.get("inputs") if isinstance(data, dict) else None
            if isinstance(inputs, Image.Image):
                return self._embed_images([self._resized(self._labelled_image(inputs))]).tolist()
            if isinstance(inputs, str | list) and inputs:
                return self._embed_texts(_texts({"inputs": inputs}, "inputs", "inputs")).tolist()
            if isinstance(inputs, dict) and "source_sentence" in inputs:
                source, *sentences = _read_sentences(inputs)
                embeds = self._embed_texts([source, *sentences])
                return (embeds[1:] @ embeds[0]).tolist()
            texts, encoded = _read(data)
            pixels = self._pixels(encoded)
        except ValueError as error:
            return {"error": str(error)}
        answer, text_embeds, image_embeds = {}, None, None
        if texts:
            text_embeds = self._embed_texts(texts)
            answer["text_embeds"] = text_embeds.tolist()
        if pixels:
            image_embeds = self._embed_images(pixels)
            answer["image_embeds"] = image_embeds.tolist()
        if text_embeds is not None and image_embeds is not None:
            answer["similarity"] = (text_embeds @ image_embeds.T).tolist()
        return answer

    def _embed_texts(self, texts: list[str]) -> torch.Tensor:
        tokens = self.processor(text=texts, return_tensors="pt")
        return self.model.encode_texts(tokens["input_ids"].to(self.device)).cpu()

    def _embed_images(self, pixels: list[torch.Tensor]) -> torch.Tensor:
        parts = [torch.cat(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE)]
        return torch.cat([self.model.encode_images(part.to(self.device))[0].cpu() for part in parts])

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

    def _pixels(self, encoded: list[str]) -> list[torch.Tensor]:
        """Each image is resized at once: 256 images in full size would fill the memory."""
        pixels, total = [], 0
        for number, item in enumerate(encoded):
            image = self._image(item, f"inputs.images[{number}]")
            total += image.width * image.height
            if total > MAX_REQUEST_PIXELS:
                raise ValueError(f"inputs.images: over {MAX_REQUEST_PIXELS // 1_000_000} million pixels in a request")
            pixels.append(self._resized(image))
            del image  # before the next one is decoded
        return pixels

    def _resized(self, image: Image.Image) -> torch.Tensor:
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]


def _read(data: Any) -> tuple[list[str], list[str]]:
    inputs = data.get("inputs") if isinstance(data, dict) else None
    if not isinstance(inputs, dict):
        raise ValueError('inputs: must be a text, texts, {"text": [...]}, {"images": [...]} or both')
    unknown = sorted(set(inputs) - {"text", "images"}, key=str)
    if unknown:
        raise ValueError(f"inputs: unknown field {json.dumps(unknown[0])}; fields are text, images")
    texts, encoded = _texts(inputs, "text", "inputs.text"), _strings(inputs, "images", "inputs.images")
    if not texts and not encoded:
        raise ValueError("inputs: contains neither text nor images")
    return texts, encoded


def _has_labels(data: dict[str, Any]) -> bool:
    return isinstance(data.get("parameters"), dict) and data["parameters"].get("candidate_labels") is not None


def _read_labels(data: dict[str, Any]) -> tuple[list[str], str]:
    parameters = dict(data["parameters"])
    if isinstance(parameters["candidate_labels"], str):  # from a query string or the widget
        parameters["candidate_labels"] = [label.strip() for label in parameters["candidate_labels"].split(",")]
    labels = _texts(parameters, "candidate_labels", "parameters.candidate_labels")
    if not labels:
        raise ValueError("parameters.candidate_labels: is empty")
    template = parameters.get("hypothesis_template") or "{}"
    if not isinstance(template, str) or template.count("{}") != 1 or len(template) > 1000:
        raise ValueError('parameters.hypothesis_template: must be a text that contains "{}" once')
    return labels, template


def _read_sentences(inputs: dict[str, Any]) -> list[str]:
    """The source sentence, then the sentences."""
    source = inputs["source_sentence"]
    if not isinstance(source, str):
        raise ValueError(f"inputs.source_sentence: must be a text, not {type(source).__name__}")
    sentences = _texts(inputs, "sentences", "inputs.sentences")
    if not sentences:
        raise ValueError("inputs.sentences: is empty")
    return _texts({"source": source}, "source", "inputs.source_sentence") + sentences


def _texts(inputs: dict[str, Any], field: str, name: str) -> list[str]:
    texts = _strings(inputs, field, name)
    if (characters := sum(map(len, texts))) > MAX_CHARACTERS:
        raise ValueError(f"{name}: {characters} characters, at most {MAX_CHARACTERS} per request")
    return texts


def _strings(inputs: dict[str, Any], field: str, name: str) -> list[str]:
    value = inputs.get(field)
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
