"""Exported towers in onnxruntime: texts and images -> embeddings, without torch and transformers.

What `onnx_export.py` wrote, and numpy, PIL, onnxruntime and tokenizers are all it needs.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_rogle.sentences import split_sentences

FORMAT = "rogle-onnx"
VERSION = 1
MANIFEST = "rogle_onnx.json"
TOKENIZER = "tokenizer.json"
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
    """An export that cannot be made or used; one line that names the file."""


def session(file: Path) -> Any:
    """An onnxruntime session on the CPU. Raises OnnxError: not installed, or no graph there."""
    try:
        import onnxruntime
    except ImportError as error:
        raise OnnxError("onnxruntime is not installed; pip install 'rogle[onnxruntime]'") from error
    if not file.is_file():
        raise OnnxError(f"{file}: no such file; `rogle export` writes it")
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise OnnxError(f"{file}: cannot be loaded ({str(error).splitlines()[0]})") from error


class OnnxTowers:
    """The towers of an exported model; each file is checked against the manifest and opened when first needed.

    Args:
        folder: that `rogle export` wrote.
        int8: run the int8 files.

    Raises:
        FileNotFoundError: no such folder.
        OnnxError: no export, of another version, or a field that cannot be right; the file is named.
    """

    def __init__(self, folder: str | Path, int8: bool = False):
        self.folder, self.suffix = Path(folder), ".int8.onnx" if int8 else ".onnx"
        self.about = _read_manifest(self.folder)
        self._opened: dict[str, Any] = {}

    @property
    def dimension(self) -> int:
        """Of an embedding."""
        return self.about["dimension"]

    @property
    def boxes(self) -> np.ndarray:
        """float32 `[T, 4]` x0, y0, x1, y1 in [0, 1], the template regions of a person; the last is the whole image."""
        return np.array(self.about["template_boxes"], dtype=np.float32)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int64 `[n, l]` token ids, padded on the right with ends of text; as [`RogleProcessor`] gives them.

        A text over the limit loses its last sentences until whole ones fit, a first sentence that is too long by itself
        is cut at the limit.
        """
        limit, end = self.about["max_tokens"], self.about["end_token"]
        rows = [self._ids(text, limit) for text in texts]
        longest = max((len(row) for row in rows), default=1)
        ids = np.full((len(rows), longest), end, dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        return ids

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, start and end included, before anything is cut."""
        return len(self._tokenizer().encode(text).ids)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """float32 `[n, D]` unit vectors of captions, sentences or queries."""
        ids, graph = self.tokens(texts), self._session("text")
        parts = [np.zeros((0, self.dimension), dtype=np.float32)]
        for start in range(0, len(ids), batch_size):
            parts.append(graph.run(["embeds"], {"input_ids": ids[start : start + batch_size]})[0])
        return np.concatenate(parts)

    def pixels(self, images: Sequence[Image.Image]) -> np.ndarray:
        """float32 `[b, 3, height, width]`, resized to the rectangle and normalised as RogleProcessor does."""
        height, width = self.about["image_size"]
        mean, std = (np.array(self.about[name], dtype=np.float32) for name in ("image_mean", "image_std"))
        found = np.empty((len(images), 3, height, width), dtype=np.float32)
        for number, image in enumerate(images):
            small = image.convert("RGB").resize((width, height), resample=self.about["resample"])
            found[number] = ((np.asarray(small, dtype=np.float32) / 255 - mean) / std).transpose(2, 0, 1)
        return found

    def encode_images(
        self, images: Sequence[Image.Image], boxes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds images and regions of each.

        Args:
            boxes: float32 `[t, 4]` x0, y0, x1, y1 in [0, 1], the same in every image; by default the templates.

        Returns:
            float32 `[b, D]` and `[b, t, D]`: unit vectors.
        """
        every = np.repeat((self.boxes if boxes is None else boxes)[None], len(images), axis=0)
        fed = {"pixel_values": self.pixels(images), "boxes": every}
        return tuple(self._session("image").run(["images", "regions"], fed))

    def _ids(self, text: str, limit: int) -> list[int]:
        encoded = self._tokenizer().encode(text)
        if len(encoded.ids) <= limit:
            return encoded.ids
        last = encoded.offsets[limit - 2][1]  # start and end of text are two of the limit
        whole = [end for _, _, end in split_sentences(text) if end <= last]
        if whole:
            encoded = self._tokenizer().encode(text[: whole[-1]])
        return encoded.ids if len(encoded.ids) <= limit else [*encoded.ids[: limit - 1], self.about["end_token"]]

    def _tokenizer(self) -> Any:
        if TOKENIZER not in self._opened:
            from tokenizers import Tokenizer

            try:
                tokenizer = Tokenizer.from_file(str(self._checked(TOKENIZER)))
            except OnnxError:
                raise
            except Exception as error:  # the library's own class is Exception
                raise OnnxError(f"{self.folder / TOKENIZER}: damaged ({error})") from error
            tokenizer.no_padding()
            tokenizer.no_truncation()
            tokenizer.encode_special_tokens = True  # "<|endoftext|>" within a text is text
            self._opened[TOKENIZER] = tokenizer
        return self._opened[TOKENIZER]

    def _session(self, tower: str) -> Any:
        name = tower + self.suffix
        if name not in self._opened:
            if f"{name}.data" in self.about["files"]:
                self._checked(f"{name}.data")
            self._opened[name] = session(self._checked(name))
        return self._opened[name]

    def _checked(self, name: str) -> Path:
        """A file of the export, if it is the one that the manifest tells of."""
        file, told = self.folder / name, self.about["files"].get(name)
        if not file.is_file() or not isinstance(told, dict):
            raise OnnxError(f"{file}: not in this export; `rogle export` writes it")
        if hashlib.sha256(file.read_bytes()).hexdigest() != told.get("sha256"):
            raise OnnxError(f"{file}: not the file that {MANIFEST} tells of; export the model again")
        return file


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    file = folder / MANIFEST
    if not file.is_file():
        raise OnnxError(f"{folder}: no {MANIFEST} there, so it is no exported model; `rogle export` makes one")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OnnxError(f"{file}: damaged ({error}); export the model again") from error
    if not isinstance(about, dict) or (about.get("format"), about.get("version")) != (FORMAT, VERSION):
        raise OnnxError(f"{file}: not an export that this program reads; export the model again")
    for field, kind in _FIELDS.items():
        if not isinstance(about.get(field), kind):
            raise OnnxError(f"{file}: field {field!r} is missing or not a {kind.__name__}; export the model again")
    for field, length in (("image_size", 2), ("image_mean", 3), ("image_std", 3)):
        if len(about[field]) != length or not all(isinstance(value, int | float) for value in about[field]):
            raise OnnxError(f"{file}: field {field!r} is not {length} numbers; export the model again")
    return about


__all__ = ["FORMAT", "MANIFEST", "OnnxError", "OnnxTowers", "TOKENIZER", "VERSION", "session"]
