"""Assembles the repository of a model (weights, processor, code, card, endpoint handler) or of adapters.

A released model loads without this package: `AutoModel.from_pretrained(name, trust_remote_code=True)`.
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
from modeling_rogle.pipeline_rogle import PIPELINES
from modeling_rogle.release.upload import ReleaseError

PACKAGE = Path(modeling_rogle.__file__).parent
MODEL_MAP = {
    "AutoConfig": "configuration_rogle.RogleConfig",
    "AutoModel": "modeling_rogle.RogleModel",
    "AutoModelForZeroShotImageClassification": "modeling_rogle.RogleModel",
}
PROCESSOR_MAP = {"AutoProcessor": "processing_rogle.RogleProcessor"}
# The modules that the configuration files name; `code_files` adds the modules that these import.
_CLASSES = (*MODEL_MAP.values(), *PROCESSOR_MAP.values(), *(task["impl"] for task in PIPELINES.values()))
NAMED = sorted({f"{name.partition('.')[0]}.py" for name in _CLASSES})
# By these files `SentenceTransformer(name, trust_remote_code=True)` encodes texts and images to unit vectors.
SENTENCE_FILES: dict[str, object] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
            "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
        },
        "module_output_name": "sentence_embedding",
    },
}
ENDPOINT_FILES = ("handler.py", "requirements.txt")
# Formats that are pickles or may contain them.
CODE_IN_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack", ".joblib")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def code_files() -> tuple[str, ...]:
    """Lists the code of a released model: the modules that configuration files name, and all that they import.

    Returns:
        File names in the root of `modeling_rogle`, sorted.

    Raises:
        ReleaseError: a module imports this package in another way than `from .x import y`, which transformers
            does not follow.
    """
    files: set[str] = set()
    waiting = list(NAMED)
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        files.add(name)
        for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
            refused = isinstance(node, ast.Import) and any(a.name.startswith(("modeling_rogle", "dataset_pvlg"))
                                                           for a in node.names)  # fmt: skip
            if isinstance(node, ast.ImportFrom):
                refused = node.level == 0 and (node.module or "").startswith(("modeling_rogle", "dataset_pvlg"))
                if node.level == 1 and node.module and "." not in node.module:
                    waiting.append(f"{node.module}.py")
                elif node.level:
                    refused = True
            if refused and isinstance(node, ast.Import | ast.ImportFrom):
                raise ReleaseError(f"{PACKAGE / name}: line {node.lineno}: must be `from .x import y`")
    return tuple(sorted(files))


def save_for_hub(model: RogleModel, processor: RogleProcessor, folder: str | Path) -> None:
    """Saves weights, processor, code and endpoint handler, to be loaded without this package.

    `AutoModel.from_pretrained(folder, trust_remote_code=True)`, `AutoProcessor`, `pipeline` and `SentenceTransformer`
    (sentence-transformers 6) then work. `auto_map` is written into the saved files: `register_for_auto_class` would
    change every later `save_pretrained` of the process.

    Args:
        model: the model.
        processor: its processor.
        folder: a new folder; files of an existing one are overwritten.
    """
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    fields: dict[str, object] = {"auto_map": MODEL_MAP, "custom_pipelines": PIPELINES}
    height, width = model.config.image_size
    if height == width:  # CLIP's classes read the size here, ours in `image_size`
        fields["vision_config"] = read_json(folder / "config.json")["vision_config"] | {"image_size": height}
    _edit(folder / "config.json", **fields)
    _edit(folder / "processor_config.json", auto_map=PROCESSOR_MAP)
    # transformers records how the tokenizer was loaded on this machine, which does not belong to a release.
    _edit(folder / "tokenizer_config.json", is_local=None, local_files_only=None)
    for name in code_files():
        shutil.copyfile(PACKAGE / name, folder / name)
    for name, content in SENTENCE_FILES.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name in ENDPOINT_FILES:
        shutil.copyfile(PACKAGE / "release" / name, folder / name)


def clip_part(config: RogleConfig) -> str:
    """Describes for the card which of CLIP's own classes can read the released weights.

    Encoders and projections have CLIP's names. `CLIPModel` only has a square grid of image positions, so it cannot read
    weights for a rectangle.
    """
    height, width = config.image_size
    if height == width:
        return (
            "`CLIPModel.from_pretrained` also reads these weights without custom code and gives the same global "
            "embeddings. It ignores `region_head`, so it has no region embeddings."
        )
    return (
        f"`CLIPModel` cannot read these weights, because it needs square images and these are {height} x {width} "
        "pixels. `CLIPTextModelWithProjection.from_pretrained` reads the text encoder without custom code."
    )


def assemble_model(model_dir: str | Path, repo_id: str, folder: str | Path) -> RogleConfig:
    """Assembles the repository of a saved model, with the card that training wrote.

    Args:
        model_dir: folder of a Rogle model with its processor and its card (README.md).
        repo_id: `user/name`; replaces PATH_OR_NAME in the card.
        folder: a new or empty folder.

    Returns:
        The configuration of the model.

    Raises:
        ReleaseError: `model_dir` is not a Rogle model, its configuration is invalid, the card is missing, the weights
            are damaged or not safetensors, or `folder` is not empty.
        OSError: the model or its processor cannot be read.
    """
    model_dir, folder = Path(model_dir), Path(folder)
    card = check_model_folder(model_dir)
    check_empty(folder)
    try:
        model = RogleModel.from_pretrained(str(model_dir))
    except (StrictDataclassError, SafetensorError) as error:
        raise ReleaseError(f"{model_dir}: {str(error.__cause__ or error).splitlines()[0]}") from error
    save_for_hub(model, RogleProcessor.from_pretrained(str(model_dir)), folder)
    (folder / "README.md").write_text(card.replace("PATH_OR_NAME", repo_id), encoding="utf-8")
    return model.config


def check_model_folder(model_dir: Path) -> str:
    """Checks a model folder before its release.

    Returns:
        The text of its card.

    Raises:
        ReleaseError: see [`assemble_model`].
    """
    config = model_dir / "config.json"
    if not config.is_file():
        raise ReleaseError(f"{model_dir}: no config.json in this folder, so it is not a model")
    kind = read_json(config).get("model_type")
    if kind != "rogle":
        raise ReleaseError(f"{config}: model_type is {kind!r}, only 'rogle' can be released")
    _check_weights(model_dir)
    if not any(model_dir.glob("*.safetensors")):
        raise ReleaseError(f"{model_dir}: contains no safetensors weights")
    card = model_dir / "README.md"
    if not card.is_file():
        raise ReleaseError(f"{card}: no model card; train/train.py writes one")
    return card.read_text(encoding="utf-8")


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder contains adapters and no model."""
    folder = Path(folder)
    return (folder / ADAPTER_FILES[0]).is_file() and not (folder / "config.json").is_file()


def assemble_adapter(
    adapter_dir: str | Path, repo_id: str, folder: str | Path, base: str | None = None, licence: str = "other"
) -> str:
    """Assembles the repository of LoRA adapters: weights, configuration and a card.

    Args:
        adapter_dir: the folder `best/adapter` of a training run.
        repo_id: `user/name` of the adapters.
        folder: a new or empty folder.
        base: Hub name of the base model. Default: the one in `adapter_config.json`.
        licence: licence in the card. Default: `other`.

    Returns:
        The name of the base model.

    Raises:
        ReleaseError: files are missing, the base is not a Hub name, or `folder` is not empty.
    """
    adapter_dir, folder = Path(adapter_dir), Path(folder)
    for name in ADAPTER_FILES:
        if not (adapter_dir / name).is_file():
            raise ReleaseError(f"{adapter_dir / name}: no such file; adapters need {' and '.join(ADAPTER_FILES)}")
    _check_weights(adapter_dir)
    check_empty(folder)
    named = read_json(adapter_dir / ADAPTER_FILES[0]).get("base_model_name_or_path")
    base = base or named or ""
    if base.count("/") != 1 or base.startswith((".", "/", "~")) or Path(base).exists():
        raise ReleaseError(
            f"{adapter_dir / ADAPTER_FILES[0]}: base_model_name_or_path is {named!r}, which is not a Hub name; "
            "give the model that these adapters were trained on as --base user/name"
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
    """Raises ReleaseError if the folder exists and is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReleaseError(f"{folder}: not an empty folder; choose another")


def read_json(path: Path) -> dict:
    """Reads a JSON object from a file; raises ReleaseError if the content is anything else."""
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
            raise ReleaseError(f"{file}: only safetensors weights can be released; this format may contain code")


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
