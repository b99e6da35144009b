"""The files of a model's repository: weights, processor, code, card and endpoint handler; or adapters alone.

What is pushed loads for a stranger who has nothing of ours: `AutoModel.from_pretrained(name, trust_remote_code=True)`.
"""

import ast
import json
import os
import shutil
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

import modeling_rogle
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.release.upload import ReleaseError

PACKAGE = Path(modeling_rogle.__file__).parent
MODEL_MAP = {
    "AutoConfig": "configuration_rogle.RogleConfig",
    "AutoModel": "modeling_rogle.RogleModel",
    "AutoModelForZeroShotImageClassification": "modeling_rogle.RogleModel",
}
PROCESSOR_MAP = {"AutoProcessor": "processing_rogle.RogleProcessor"}
PIPELINES = {
    "text-based-person-search": {
        "impl": "pipeline_rogle.TextBasedPersonSearchPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
# The code starts at what the JSON files above name; the rest is what these import.
_CLASSES = (*MODEL_MAP.values(), *PROCESSOR_MAP.values(), *(task["impl"] for task in PIPELINES.values()))
NAMED = sorted({f"{name.partition('.')[0]}.py" for name in _CLASSES})
ENDPOINT_FILES = ("handler.py", "requirements.txt")
# Formats that are, or may hold, pickles.
CODE_IN_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack", ".joblib")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def code_files() -> tuple[str, ...]:
    """The starred files of the package, by name: those that configuration files name, and all that they import.

    Raises:
        ReleaseError: one of them imports ours by another way than `from .x import y`; transformers would not follow.
    """
    found: set[str] = set()
    waiting = list(NAMED)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
            ours = isinstance(node, ast.Import) and any(a.name.startswith(("modeling_rogle", "dataset_pvlg"))
                                                        for a in node.names)  # fmt: skip
            if isinstance(node, ast.ImportFrom):
                ours = node.level == 0 and (node.module or "").startswith(("modeling_rogle", "dataset_pvlg"))
                if node.level == 1 and node.module and "." not in node.module:
                    waiting.append(f"{node.module}.py")
                elif node.level:
                    ours = True
            if ours:
                raise ReleaseError(f"{PACKAGE / name}: line {node.lineno}: only `from .x import y` travels to the Hub")
    return tuple(sorted(found))


def save_for_hub(model: RogleModel, processor: RogleProcessor, folder: str | Path) -> None:
    """Saves weights, processor, code and endpoint handler so that `AutoModel.from_pretrained(folder,
    trust_remote_code=True)`, `AutoProcessor` and `pipeline` work without this package.

    `auto_map` is written into the saved files, not registered on the classes: `register_for_auto_class` would last for
    the process, and add the code to every later `save_pretrained`.

    Args:
        folder: new, or overwritten file by file.
    """
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    fields: dict[str, object] = {"auto_map": MODEL_MAP, "custom_pipelines": PIPELINES}
    height, width = model.config.image_size
    if height == width:  # CLIP's own classes look for the side here, ours in `image_size`
        fields["vision_config"] = read_json(folder / "config.json")["vision_config"] | {"image_size": height}
    _edit(folder / "config.json", **fields)
    _edit(folder / "processor_config.json", auto_map=PROCESSOR_MAP)
    # transformers notes how the tokenizer happened to be loaded here; a release does not depend on that.
    _edit(folder / "tokenizer_config.json", is_local=None, local_files_only=None)
    for name in code_files():
        shutil.copyfile(PACKAGE / name, folder / name)
    for name in ENDPOINT_FILES:
        shutil.copyfile(PACKAGE / "release" / name, folder / name)


def clip_part(config: RogleConfig) -> str:
    """How far CLIP's own classes read the released weights, in one sentence of the card.

    The two towers and projections are CLIP's, under its names. `CLIPModel` holds a square table of image positions and
    nothing else, so that a rectangle does not fit into it.
    """
    height, width = config.image_size
    if height == width:
        return (
            "`CLIPModel.from_pretrained` reads these weights too, without any custom code, and gives the same global "
            "embeddings; it leaves `region_head` out, so it knows no regions."
        )
    return (
        f"`CLIPModel` cannot read these weights: its image positions form a square, these one of {height} x {width} "
        "pixels. `CLIPTextModelWithProjection.from_pretrained` reads the text tower without any custom code."
    )


def assemble_model(model_dir: str | Path, repo_id: str, folder: str | Path) -> RogleConfig:
    """Puts the repository of a saved model together in a new or empty folder; the card as training left it.

    Args:
        model_dir: Rogle folder with its processor and its card (README.md).
        repo_id: `user/name`; takes the place of PATH_OR_NAME in the card.

    Returns:
        The model's configuration.

    Raises:
        ReleaseError: no Rogle folder, a configuration out of range, no card, weights that are damaged or not
            safetensors, or `folder` is not empty.
        OSError: the model or its processor cannot be read.
    """
    model_dir, folder = Path(model_dir), Path(folder)
    card = check_model_folder(model_dir)
    check_empty(folder)
    try:
        model = RogleModel.from_pretrained(model_dir)
    except (StrictDataclassError, SafetensorError) as error:
        raise ReleaseError(f"{model_dir}: {str(error.__cause__ or error).splitlines()[0]}") from error
    save_for_hub(model, RogleProcessor.from_pretrained(model_dir), folder)
    (folder / "README.md").write_text(card.replace("PATH_OR_NAME", repo_id), encoding="utf-8")
    return model.config


def check_model_folder(model_dir: Path) -> str:
    """The card of a folder that may be released.

    Raises:
        ReleaseError: see [`assemble_model`].
    """
    config = model_dir / "config.json"
    if not config.is_file():
        raise ReleaseError(f"{model_dir}: no config.json there, so it is not a model's folder")
    kind = read_json(config).get("model_type")
    if kind != "rogle":
        raise ReleaseError(f"{config}: model_type is {kind!r}, only 'rogle' is released")
    _check_weights(model_dir)
    if not any(model_dir.glob("*.safetensors")):
        raise ReleaseError(f"{model_dir}: no safetensors weights there")
    card = model_dir / "README.md"
    if not card.is_file():
        raise ReleaseError(f"{card}: no model card; train/train.py writes one from the measured results")
    return card.read_text(encoding="utf-8")


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds adapters and no model of its own."""
    folder = Path(folder)
    return (folder / ADAPTER_FILES[0]).is_file() and not (folder / "config.json").is_file()


def assemble_adapter(
    adapter_dir: str | Path, repo_id: str, folder: str | Path, base: str | None = None, licence: str = "other"
) -> str:
    """Puts the repository of LoRA adapters together: their weights, configuration and a card.

    Args:
        adapter_dir: what training leaves as `best/adapter`.
        base: Hub name of the model that they lie on; the one that they name if None.

    Returns:
        The base's name.

    Raises:
        ReleaseError: files that are missing or no adapters' ones, a base that is no Hub name, or `folder` is not empty.
    """
    adapter_dir, folder = Path(adapter_dir), Path(folder)
    for name in ADAPTER_FILES:
        if not (adapter_dir / name).is_file():
            raise ReleaseError(f"{adapter_dir / name}: no such file; adapters have both {' and '.join(ADAPTER_FILES)}")
    _check_weights(adapter_dir)
    check_empty(folder)
    named = read_json(adapter_dir / ADAPTER_FILES[0]).get("base_model_name_or_path")
    base = base or named or ""
    if base.count("/") != 1 or base.startswith((".", "/", "~")) or Path(base).exists():
        raise ReleaseError(
            f"{adapter_dir / ADAPTER_FILES[0]}: base_model_name_or_path is {named!r}, no name on the Hub; pass the "
            "one of the model that these adapters were trained on as --base user/name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(adapter_dir / name, folder / name)
    _edit(folder / ADAPTER_FILES[0], base_model_name_or_path=base)
    text = (PACKAGE / "release" / "adapter_card.md").read_text(encoding="utf-8")
    for field, value in {"BASE": base, "PATH_OR_NAME": repo_id, "LICENCE": licence}.items():
        text = text.replace(field, value)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return base


def check_empty(folder: Path) -> None:
    """Raises ReleaseError where something stands already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReleaseError(f"{folder}: not an empty folder; nothing is overwritten")


def read_json(path: Path) -> dict:
    """A JSON object from a file; ReleaseError for anything else in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseError(f"{path}: not a JSON object") from error
    if not isinstance(content, dict):
        raise ReleaseError(f"{path}: not a JSON object")
    return content


def _check_weights(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in CODE_IN_WEIGHTS:
            raise ReleaseError(f"{file}: only safetensors weights are released; this format may hold code")


def _edit(path: Path, **fields: object) -> None:
    """Sets fields of a JSON file; None removes one."""
    content = read_json(path) | fields
    content = {name: value for name, value in content.items() if name not in fields or value is not None}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


__all__ = [
    "assemble_adapter",
    "assemble_model",
    "check_empty",
    "check_model_folder",
    "clip_part",
    "code_files",
    "is_adapter",
    "read_json",
    "save_for_hub",
]
