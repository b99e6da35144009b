"""Shared parts of the commands: argument checks, one-line errors and warnings. No slow import happens here."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from modeling_rogle.search.gallery import Gallery

_CURSOR = re.compile(r"(?:\r|\n|\x1b\[A)*")  # what tqdm writes before a bar


def add_gallery_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a command that opens an index."""
    parser.add_argument("--index", required=True, metavar="INDEX", help="folder that `rogle index` wrote")
    parser.add_argument(
        "--model", metavar="DIR", help="folder or Hub name of the model (default: the model that made the index)"
    )
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="vector store to search: exact, faiss-flat, faiss, http://host:19530 (Milvus) or "
        "postgresql://host/database (pgvector) (default: the store of the index, if it is a file of the index or is "
        "named by MILVUS_URI or ROGLE_POSTGRES_URI)",
    )


def open_gallery(args: argparse.Namespace) -> Gallery:
    """Opens the index that [`add_gallery_arguments`] named. Torch is imported later, and not with `--onnx`."""
    from modeling_rogle.search.gallery import Gallery

    if getattr(args, "onnx", None):
        from modeling_rogle.inference.onnx_encoder import OnnxEncoder

        return Gallery.open(args.index, encoder=OnnxEncoder(args.onnx, args.int8), store=args.store)
    model = check_model(args.model) if args.model else None
    # The search warns about a query that is cut; the processor's own warning would repeat it.
    logging.getLogger("modeling_rogle.processing_rogle").setLevel(logging.ERROR)
    return Gallery.open(args.index, model, store=args.store)


def check_model(name: str) -> str:
    """Checks a `--model`: it is a folder with a config.json, or it can be a Hub name (`user/model`).

    Returns:
        `name`.

    Raises:
        FileNotFoundError: it can only be a folder, and there is none.
        ValueError: the folder has no config.json.
    """
    is_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).parent.is_dir()
    if not Path(name).is_dir() and is_local:
        raise FileNotFoundError(f"--model {name}: no such folder")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"--model {name}: no config.json in this folder, so it is not a model")
    return name


def one_line(error: BaseException) -> str:
    """The first line of an error's message; for an error of the operating system, the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


def printable(text: str) -> str:
    """Escapes, as JSON does, the characters of a text that a terminal would obey, and those that are not text.

    Names in an index or data set may come from someone else. Newlines and spaces stay.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character == "\n" or unicodedata.category(character) == "Zs"
        else json.dumps(character)[1:-1]
        for character in text
    )


class _PrintableStream:
    """A text stream that writes printable text; anything else is left to the stream itself."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text. What a progress bar writes to move the cursor stays."""
        start = _CURSOR.match(text)[0]  # type: ignore[index]
        shown = start + printable(text[len(start) :])
        try:
            return self._stream.write(shown)
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            return self._stream.write("".join(c if c.isascii() else json.dumps(c)[1:-1] for c in shown))


@contextmanager
def printable_output() -> Iterator[None]:
    """Escapes what a terminal would obey in everything that is written to stdout and stderr."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _PrintableStream(streams[0]), _PrintableStream(streams[1])  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Prints each warning as one line on stderr, without its position in the source code."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


__all__ = [
    "add_gallery_arguments",
    "check_model",
    "one_line",
    "one_line_warnings",
    "open_gallery",
    "printable",
    "printable_output",
]
