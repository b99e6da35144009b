"""Public checkpoints that should work with Rogle, as a table for a terminal and as data for JSON.

Facts come from the pages that `source` names; sizes are those of the weight files. We have none of these weights, so
`tried` says what was run instead.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_CONFIGURATION = "its configuration and image processor with random weights; not its weights"
_LAYOUT = "its tensor names and shapes with random weights; not its weights"


@dataclass(frozen=True)
class PublicModel:
    """A public checkpoint.

    Attributes:
        name: Hub name, or name of the project.
        use: what it is for.
        trained_on: training data.
        licence: licence as its source states it.
        size: size of the weight file.
        command: how to get and use it.
        source: URL of its page.
        tried: what was run with Rogle.
    """

    name: str
    use: str
    trained_on: str
    licence: str
    size: str
    command: str
    source: str
    tried: str


def _clip(name: str, trained_on: str, licence: str, size: str) -> PublicModel:
    command = f"rogle index FOLDER --model {name} --out INDEX"
    page = f"https://huggingface.co/{name}"
    return PublicModel(name, "search", trained_on, licence, size, command, page, _CONFIGURATION)


def _person_search(name: str, data: str, source: str) -> PublicModel:
    command = (
        "download a checkpoint (.pth) from the links on its page, then "
        "rogle convert FILE --tokenizer FOLDER_OF_OPENAI_CLIP --out MODEL"
    )
    licence = "see its page; the training images are for research only"
    return PublicModel(name, "search, trained for persons", data, licence, "not known", command, source, _LAYOUT)


def _detector(name: str) -> PublicModel:
    command = f"rogle index FOLDER --model MODEL --detector {name} --out INDEX"
    return PublicModel(
        name, "finding persons in scenes", "COCO", "Apache-2.0", "not known", command,
        f"https://huggingface.co/{name}", "another model of its kind with random weights; not this one",
    )  # fmt: skip


_OPENAI = "400 million image-text pairs from the web (not public)"
_OPENAI_LICENCE = "MIT (github.com/openai/CLIP)"
_PEOPLE = "CUHK-PEDES, ICFG-PEDES or RSTPReid, one checkpoint for each"
MODELS = (
    _clip("openai/clip-vit-base-patch32", _OPENAI, _OPENAI_LICENCE, "0.6 GB"),
    _clip("openai/clip-vit-base-patch16", _OPENAI, _OPENAI_LICENCE, "0.6 GB"),
    _clip("openai/clip-vit-large-patch14", _OPENAI, _OPENAI_LICENCE, "1.7 GB"),
    _clip("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "LAION-2B, English", "MIT", "0.6 GB"),
    _clip("facebook/metaclip-b32-400m", "400 million pairs from CommonCrawl", "CC BY-NC 4.0", "0.6 GB"),
    _person_search("IRRA", _PEOPLE, "https://github.com/anosorae/IRRA"),
    _person_search("RDE", _PEOPLE, "https://github.com/QinYang79/RDE"),
    _person_search("TBPS-CLIP", _PEOPLE, "https://github.com/Flame-Chasers/TBPS-CLIP"),
    _detector("hustvl/yolos-small"),
    _detector("PekingU/rtdetr_r50vd"),
)


def models_as_data(models: Sequence[PublicModel]) -> list[dict[str, Any]]:
    """Converts models to types that JSON has."""
    return [asdict(model) for model in models]


def format_models(models: Sequence[PublicModel]) -> str:
    """Formats models for a terminal: a paragraph for each."""
    paragraphs = []
    for model in models:
        facts = [("for", model.use), ("trained on", model.trained_on), ("licence", model.licence)]
        facts += [("size", model.size), ("use", model.command), ("source", model.source), ("tried", model.tried)]
        paragraphs.append("\n".join([model.name, *(f"  {name:<10}  {text}" for name, text in facts)]))
    return "\n\n".join(paragraphs)


__all__ = ["MODELS", "PublicModel", "format_models", "models_as_data"]
