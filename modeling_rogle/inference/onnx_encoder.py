"""Embeddings from an exported model in onnxruntime, without torch and transformers.

`OnnxEncoder` reads the folder that `onnx_export/export.py` writes. It needs NumPy, Pillow, onnxruntime and tokenizers.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_rogle.image_io import FITS, fit_image, to_rgb
from modeling_rogle.inference.untrusted import parse_json
from modeling_rogle.sentences import normalize_text, split_sentences

FORMAT = "rogle-onnx"
VERSION = 1
MANIFEST = "rogle_onnx.json"
TOKENIZER = "tokenizer.json"
CALIBRATION = "calibration.json"
_FIELDS = {
    "fingerprint": str,
    "dimension": int,
    "local_weight": float,
    "max_tokens": int,
    "end_token": int,
    "image_size": list,
    "image_mean": list,
    "image_std": list,
    "resample": int,
    "template_boxes": list,
    "files": dict,
}


class OnnxError(ValueError):
    """An export that cannot be written or used. The message is one line that names the file."""


def open_session(file: Path) -> Any:
    """Opens an ONNX file in onnxruntime on the CPU.

    Raises:
        OnnxError: onnxruntime is not installed, or the file is missing or damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise OnnxError("onnxruntime is not installed; pip install 'rogle[onnxruntime]'") from error
    if not file.is_file():
        raise OnnxError(f"{file}: no such file; `rogle export` writes it")
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of onnxruntime have no common class
        raise OnnxError(f"{file}: cannot be loaded ({str(error).splitlines()[0]})") from error


class OnnxEncoder:
    """The text and image encoders of an exported model. It has the same methods as `TorchEncoder`.

    Each file is checked against the manifest and opened when it is first needed.

    Args:
        folder: folder that `rogle export` wrote.
        int8: use the int8 files instead of the float32 files. Default: False.

    Raises:
        FileNotFoundError: the folder does not exist.
        OnnxError: the folder is not an export or has another version, or a field of its manifest is invalid.
    """

    def __init__(self, folder: str | Path, int8: bool = False):
        self.folder, self.suffix = Path(folder), ".int8.onnx" if int8 else ".onnx"
        self.manifest = _read_manifest(self.folder)
        self.template_boxes = np.array(self.manifest["template_boxes"], dtype=np.float32)  # [T, 4] in [0, 1]
        self._open_files: dict[str, Any] = {}

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.manifest["dimension"]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels to which an image is resized."""
        height, width = self.manifest["image_size"]
        return height, width

    @property
    def fit(self) -> str:
        """How an image is fitted to that size: `squeeze`, `pad` or `crop`."""
        return self.manifest.get("fit", "squeeze")

    @property
    def trained_regions(self) -> bool:
        """Whether the region embeddings were trained, so that a search may show regions."""
        return self.manifest.get("trained_regions", True)

    @property
    def local_weight(self) -> float:
        """Weight of the local score in the final score."""
        return self.manifest["local_weight"]

    @property
    def max_tokens(self) -> int:
        """Maximum length of a text in tokens, including the start and end tokens."""
        return self.manifest["max_tokens"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model that was exported; see [`loading.fingerprint`]."""
        return self.manifest["fingerprint"]

    @property
    def has_image_encoder(self) -> bool:
        """Whether an image can be a query: the image encoder may have been removed from the folder."""
        return (self.folder / f"image{self.suffix}").is_file()

    def count_tokens(self, text: str) -> int:
        """Number of tokens in a text before truncation, including the start and end tokens."""
        return len(self._tokenizer().encode(normalize_text(text)).ids)

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of texts, as [`RogleProcessor`] returns them.

        A text longer than `max_tokens` loses its last sentences. A first sentence that is too long is truncated.

        Args:
            texts: n texts.

        Returns:
            int64 `[n, l]`, padded on the right with the end token.
        """
        rows = [self._token_ids(text) for text in texts]
        longest = max((len(row) for row in rows), default=1)
        ids = np.full((len(rows), longest), self.manifest["end_token"], dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        return ids

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Encodes texts.

        Args:
            texts: n captions, sentences or queries.
            batch_size: number of texts in a forward pass. Default: 64.

        Returns:
            float32 `[n, D]` unit vectors.
        """
        ids, graph = self.tokenize(texts), self._session("text")
        parts = [np.zeros((0, self.dimension), dtype=np.float32)]
        for start in range(0, len(ids), batch_size):
            parts.append(graph.run(["embeds"], {"input_ids": ids[start : start + batch_size]})[0])
        return np.concatenate(parts)

    def preprocess(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Resizes and normalises n images as [`RogleProcessor`] does: float32 `[n, 3, height, width]`."""
        height, width = self.image_size
        colour = tuple(round(255 * value) for value in self.manifest["image_mean"])
        mean, std = (np.array(self.manifest[name], dtype=np.float32) for name in ("image_mean", "image_std"))
        pixels = np.empty((len(images), 3, height, width), dtype=np.float32)
        for number, image in enumerate(images):
            resized = fit_image(to_rgb(image), self.image_size, self.fit, self.manifest["resample"], colour)
            pixels[number] = ((np.asarray(resized, dtype=np.float32) / 255 - mean) / std).transpose(2, 0, 1)
        return pixels

    def encode_images(
        self, images: Sequence[Image.Image], boxes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes images and the same regions of each in one forward pass.

        Args:
            images: n images.
            boxes: float32 `[T, 4]` x0, y0, x1, y1 in [0, 1]. Default: the template boxes of the export.

        Returns:
            float32 `[n, D]` and `[n, T, D]` unit vectors: images and regions.
        """
        boxes = self.template_boxes if boxes is None else boxes
        inputs = {"pixel_values": self.preprocess(images), "boxes": np.repeat(boxes[None], len(images), axis=0)}
        return tuple(self._session("image").run(["images", "regions"], inputs))

    def _token_ids(self, text: str) -> list[int]:
        text = normalize_text(text)
        limit, encoded = self.max_tokens, self._tokenizer().encode(text)
        if len(encoded.ids) <= limit:
            return encoded.ids
        end = encoded.offsets[limit - 2][1]  # the start and end tokens are two of the limit
        sentence_ends = [stop for _, _, stop in split_sentences(text) if stop <= end]
        if sentence_ends:
            encoded = self._tokenizer().encode(text[: sentence_ends[-1]])
        return encoded.ids if len(encoded.ids) <= limit else [*encoded.ids[: limit - 1], self.manifest["end_token"]]

    def _tokenizer(self) -> Any:
        if TOKENIZER not in self._open_files:
            from tokenizers import Tokenizer

            file = self._checked_file(TOKENIZER)
            try:
                tokenizer = Tokenizer.from_file(str(file))
            except Exception as error:  # the library raises Exception itself
                raise OnnxError(f"{file}: damaged ({error})") from error
            tokenizer.no_padding()
            tokenizer.no_truncation()
            tokenizer.encode_special_tokens = True  # "<|endoftext|>" in a text is plain text
            self._open_files[TOKENIZER] = tokenizer
        return self._open_files[TOKENIZER]

    def _session(self, encoder: str) -> Any:
        name = encoder + self.suffix
        if name not in self._open_files:
            if f"{name}.data" in self.manifest["files"]:
                self._checked_file(f"{name}.data")
            self._open_files[name] = open_session(self._checked_file(name))
        return self._open_files[name]

    def _checked_file(self, name: str) -> Path:
        file, entry = self.folder / name, self.manifest["files"].get(name)
        if not file.is_file() or not isinstance(entry, dict):
            raise OnnxError(f"{file}: not in this export; `rogle export` writes it")
        if hashlib.sha256(file.read_bytes()).hexdigest() != entry.get("sha256"):
            raise OnnxError(f"{file}: differs from its SHA-256 in {MANIFEST}; export the model again")
        return file


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    file = folder / MANIFEST
    if not file.is_file():
        raise OnnxError(f"{folder}: not an exported model (no {MANIFEST}); `rogle export` writes one")
    try:
        manifest = parse_json(file.read_bytes())
    except ValueError as error:
        raise OnnxError(f"{file}: damaged ({error}); export the model again") from error
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise OnnxError(f"{file}: not an export of format {FORMAT} {VERSION}; export the model again")
    for field, kind in _FIELDS.items():
        if not isinstance(manifest.get(field), kind):
            raise OnnxError(f"{file}: field {field!r} is missing or not a {kind.__name__}; export the model again")
    for field, length in (("image_size", 2), ("image_mean", 3), ("image_std", 3)):
        if len(manifest[field]) != length or not all(isinstance(value, int | float) for value in manifest[field]):
            raise OnnxError(f"{file}: field {field!r} is not {length} numbers; export the model again")
    if manifest.get("fit", "squeeze") not in FITS:
        raise OnnxError(f"{file}: field 'fit' is not one of {', '.join(FITS)}; export the model again")
    if not isinstance(manifest.get("trained_regions", True), bool):
        raise OnnxError(f"{file}: field 'trained_regions' is not true or false; export the model again")
    return manifest


__all__ = ["CALIBRATION", "FORMAT", "MANIFEST", "OnnxEncoder", "OnnxError", "TOKENIZER", "VERSION", "open_session"]
