"""Every entry point of the project, called in the same way: an image, a query or a folder in, an `Outcome` out."""

import base64
import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from dataset_pvlg.features import FEATURES
from dataset_pvlg.mining.mine_rows import mine_rows
from dataset_pvlg.readers.read import read_source
from modeling_rogle import Gallery, RogleModel, RogleProcessor
from modeling_rogle.cli.main import main
from modeling_rogle.display.demo import run_search
from modeling_rogle.evaluation.split_embeddings import encode_split
from modeling_rogle.image_io import decode_image
from modeling_rogle.inference.onnx_encoder import OnnxEncoder
from modeling_rogle.pipeline_rogle import EncodedCandidates, TextBasedPersonSearchPipeline
from modeling_rogle.release.handler import EndpointHandler
from modeling_rogle.search.query import encode_query
from tests.helpers.training_rows import training_row
from train.data.pairs import PairDataset, normalize_images


@dataclass
class Outcome:
    """What an entry point did.

    Attributes:
        embeds: `[n, D]` unit vectors of the images or texts that it used; None without any.
        messages: warnings, printed lines, and the message of an error.
        counts: counts of its report by name.
        failed: whether it refused the input, with `messages` holding one line.
    """

    embeds: np.ndarray | None = None
    messages: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    failed: bool = False


@dataclass
class World:
    """The shared model and what was made of it once.

    Attributes:
        checkpoint: folder of the model.
        onnx: folder of the exported model.
        index: folder of an index of ordinary images.
        candidates: the same images, encoded by the pipeline.
        tmp: a folder for this test.
    """

    checkpoint: Path
    onnx: Path
    index: Path
    model: RogleModel
    processor: RogleProcessor
    pipeline: TextBasedPersonSearchPipeline
    handler: EndpointHandler
    candidates: EncodedCandidates
    tmp: Path = Path()

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        """`[n, D]` embeddings of RGB images on the plain path: processor and model."""
        pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        return self.model.encode_images(pixels)[0].numpy()

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """`[n, D]` embeddings of texts on the plain path: tokenizer and model, one text at a time."""
        ids = [self.processor.tokenizer([text], return_tensors="pt")["input_ids"] for text in texts]
        return np.concatenate([self.model.encode_texts(row).numpy() for row in ids])


@contextlib.contextmanager
def recorded(outcome: Outcome) -> Iterator[None]:
    """Adds warnings and the one-line message of an allowed error to the outcome; other exceptions are faults."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (ValueError, OSError) as error:
            assert not isinstance(error, UnicodeError), repr(error)
            outcome.failed = True
            outcome.messages.append(str(error))
    outcome.messages += [str(warning.message) for warning in caught]


def command(outcome: Outcome, *argv: str | Path) -> str:
    """Runs `rogle`, adds what it prints on stderr to the outcome and returns what it prints on stdout."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        outcome.failed = main([str(value) for value in argv]) != 0
    outcome.messages += err.getvalue().splitlines()
    assert "Traceback" not in err.getvalue()
    return out.getvalue()


def rows_of(file: Path) -> Dataset:
    """A P-VLG data set whose only image is the file."""
    row = training_row(0, 1) | {"image": {"bytes": file.read_bytes(), "path": file.name}}
    image = decode_image(file.read_bytes(), file.name)
    row |= {"width": image.width, "height": image.height}
    row["regions"] = [region | {"bbox": [1, 1, 8, 8]} for region in row["regions"]]
    return Dataset.from_list([row], features=FEATURES)


# --- images: function(world, file) -> Outcome with the embedding of the image


def cli_index(world: World, file: Path) -> Outcome:
    outcome = Outcome()
    command(outcome, "index", file.parent, "--model", world.checkpoint, "--out", world.tmp / "index")
    if not outcome.failed:
        outcome.embeds = stored_embeds(world.tmp / "index")
    return outcome


def stored_embeds(index: Path) -> np.ndarray:
    """The global embeddings of an index of one shard."""
    (file,) = index.glob("shard-*/global.npy")
    return np.load(file)


def gallery_build(world: World, file: Path) -> Outcome:
    outcome = Outcome()
    with recorded(outcome):
        gallery = Gallery.build(file.parent, world.model, world.processor, world.tmp / "index", progress=False)
        outcome.embeds = stored_embeds(gallery.path)
        outcome.counts = {"unreadable metadata": gallery.report.unreadable_metadata}
    return outcome


def training(world: World, file: Path) -> Outcome:
    outcome = Outcome()
    with recorded(outcome):
        pairs = PairDataset(rows_of(file), world.processor, flip=0.0)
        batch = pairs.collate([pairs[0]])
        pixels = normalize_images(batch.images, world.processor)
        outcome.embeds = world.model.encode_images(pixels)[0].numpy()
        outcome.counts = {"unreadable metadata": len(batch.metadata_faults)}
    return outcome


class RecordingModel:
    """A model or encoder, which keeps the embeddings of the images that it encodes."""

    def __init__(self, model: Any):
        self.model, self.images = model, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode_images(self, *arguments: Any, **options: Any) -> Any:
        result = self.model.encode_images(*arguments, **options)
        self.images.append(np.asarray(result[0]))
        return result


def mining(world: World, file: Path) -> Outcome:
    outcome, model = Outcome(), RecordingModel(world.model)
    with recorded(outcome):
        _, counts = mine_rows(model, world.processor, rows_of(file), progress=False)
        outcome.embeds = np.concatenate(model.images)
        outcome.counts = {"unreadable metadata": counts["unreadable_metadata"], "unreadable": counts["unreadable"]}
    return outcome


def evaluation(world: World, file: Path) -> Outcome:
    outcome = Outcome()
    with recorded(outcome):
        outcome.embeds = encode_split(world.model, world.processor, rows_of(file), progress=False).image_embeds.numpy()
    return outcome


def build(world: World, file: Path) -> Outcome:
    outcome = Outcome()
    with recorded(outcome):
        splits, report = read_source("own", file.parent)
        (path,) = [row["path"] for rows in splits.values() for row in rows.select_columns("path")]
        outcome.embeds = world.embed([decode_image((file.parent / path).read_bytes(), path).image])
        outcome.counts = {"unreadable metadata": report.noted["image with metadata that cannot be read"]}
        outcome.counts["skipped"] = sum(report.skipped.values())
    return outcome


def processor(world: World, file: Path) -> Outcome:
    """A PIL image that the user opened; the processor reads no metadata."""
    outcome = Outcome()
    with recorded(outcome), Image.open(file) as image:
        pixels = world.processor(images=image, return_tensors="pt")["pixel_values"]
        outcome.embeds = world.model.encode_images(pixels)[0].numpy()
    return outcome


def pipeline(world: World, file: Path) -> Outcome:
    outcome = Outcome()
    with recorded(outcome):
        outcome.embeds = world.pipeline.encode_candidates([str(file)]).image_embeds
    return outcome


def onnx(world: World, file: Path) -> Outcome:
    """An image as the query of a search without torch."""
    outcome = Outcome()
    with recorded(outcome):
        outcome.embeds = encode_query(OnnxEncoder(world.onnx), image=file).embed[None]
    return outcome


def endpoint(world: World, file: Path) -> Outcome:
    answer = world.handler({"inputs": {"images": base64.b64encode(file.read_bytes()).decode()}})
    if "error" in answer:
        return Outcome(messages=[answer["error"]], failed=True)
    return Outcome(np.array(answer["image_embeds"]))


def space(world: World, file: Path) -> Outcome:
    """The Space encodes its gallery with the pipeline and draws an image with the processor's reader."""
    outcome = pipeline(world, file)
    drawn = world.pipeline.processor.read_image(file.read_bytes())
    np.testing.assert_allclose(world.embed([drawn]), outcome.embeds, atol=1e-5)
    return outcome


def demo(world: World, file: Path) -> Outcome:
    """An uploaded image as the query of the demo; its embedding is what the gallery searched with."""
    gallery = Gallery.open(world.index, world.checkpoint)
    encoder = RecordingModel(gallery.encoder)
    gallery._encoder = encoder
    _, message = run_search(gallery, "", str(file), "", 3)
    return Outcome(np.concatenate(encoder.images) if encoder.images else None, [message], failed=not encoder.images)


IMAGE_ENTRY_POINTS: dict[str, Callable[[World, Path], Outcome]] = {
    "rogle index": cli_index,
    "Gallery.build": gallery_build,
    "training": training,
    "mining": mining,
    "evaluation": evaluation,
    "build": build,
    "processor": processor,
    "pipeline": pipeline,
    "ONNX": onnx,
    "endpoint": endpoint,
    "Space": space,
    "demo": demo,
}
# Entry points that read files and report on all of them; the others answer for one image.
COUNTING = ("rogle index", "Gallery.build", "training", "mining", "evaluation", "build")
