"""Loading of Rogle and CLIP checkpoints, and upload to the Hub with the model's code."""

import json
from typing import Any

from transformers import CLIPConfig, CLIPModel
from transformers.utils.peft_utils import find_adapter_config_file

from .clip_weights import rogle_weights
from .configuration_rogle import HEAD_FIELDS, RogleConfig

_CONFIG_FIELDS = {*RogleConfig.__dataclass_fields__, *HEAD_FIELDS} - {"dtype"}
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class PretrainedRogle(CLIPModel):
    """Base class of [`RogleModel`]."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | None, *args: Any, **kwargs: Any) -> Any:
        """Loads a Rogle checkpoint, any `CLIPModel` checkpoint, or LoRA adapters of one (folder or Hub name).

        From plain CLIP weights, the vision position table is resized to the rectangle (bicubic) and the text table
        lengthened, which one log line reports. Adapters are added to the weights of the base model that their
        `adapter_config.json` names.

        Args:
            pretrained_model_name_or_path: folder or Hub name.
            *args: as in `PreTrainedModel.from_pretrained`.
            **kwargs: arguments of `PreTrainedModel.from_pretrained` and fields of [`RogleConfig`]. For CLIP weights
                also `image_size` (`list[int]`, height and width in pixels, [384, 128] by default) and
                `max_position_embeddings` (`int`, caption length in tokens, 248 by default).

        Returns:
            The [`RogleModel`]; with `output_loading_info=True` also a dict, as in transformers.

        Raises:
            ValueError: an architecture other than Rogle and CLIP, an image size that the patches do not divide, or
                fewer text positions than the checkpoint has; or adapters that name no base model.
            ImportError: the folder holds adapters, and peft is not installed.
            OSError: no readable weights; a Rogle checkpoint must be safetensors.
        """
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            if kwargs.get("config") is None:
                hub = {k: kwargs[k] for k in _HUB_ARGUMENTS if k in kwargs}
                stored, _ = CLIPConfig.get_config_dict(pretrained_model_name_or_path, **hub)
                if stored.get("model_type") is None:  # adapters have no config.json, and transformers reads it as empty
                    adapters = find_adapter_config_file(pretrained_model_name_or_path, **hub)
                    if adapters is not None:
                        return cls._with_adapters(pretrained_model_name_or_path, adapters, *args, **kwargs)
                if stored.get("model_type") == "clip":
                    return cls._from_clip(pretrained_model_name_or_path, **kwargs)
                _check_stored(pretrained_model_name_or_path, stored, kwargs)
                kwargs.pop("max_position_embeddings", None)
            kwargs.setdefault("use_safetensors", True)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _with_adapters(cls, name: str, adapter_config: str, *args: Any, **kwargs: Any) -> Any:
        try:
            from peft import PeftModel
        except ImportError:
            raise ImportError(f"{name}: holds adapters, which need peft: pip install peft") from None
        with open(adapter_config, encoding="utf-8") as file:
            base = json.load(file).get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{adapter_config}: field 'base_model_name_or_path' names no model to add the adapters to")
        with_info = kwargs.pop("output_loading_info", False)
        model, info = cls.from_pretrained(base, *args, output_loading_info=True, **kwargs)
        hub = {k: kwargs[k] for k in ("cache_dir", "token") if k in kwargs}
        model = PeftModel.from_pretrained(model, str(name), **hub).merge_and_unload()
        return (model, info) if with_info else model

    @classmethod
    def _from_clip(cls, name: str, **kwargs: Any) -> Any:
        fields = {k: kwargs.pop(k) for k in list(kwargs) if k in _CONFIG_FIELDS}
        with_info = kwargs.pop("output_loading_info", False)
        tokens = kwargs.pop("max_position_embeddings", None)
        attention = {k: kwargs[k] for k in ("attn_implementation",) if k in kwargs}
        clip = CLIPModel.from_pretrained(name, **kwargs)
        config, state = rogle_weights(name, clip, fields, tokens)
        model, info = super().from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, dtype=clip.dtype, **attention
        )
        model = model.to(clip.device)
        return (model, info) if with_info else model

    def push_to_hub(self, repo_id: str, *args: Any, **kwargs: Any) -> str:
        """As `PreTrainedModel.push_to_hub`, with the code of the model. `rogle push` adds processor, card and handler.

        Args:
            repo_id: `user/name` of the repository.
            *args: as in `PreTrainedModel.push_to_hub`.
            **kwargs: as in `PreTrainedModel.push_to_hub`.

        Returns:
            The URL of the commit.
        """
        # transformers uploads the files that it sees imported here: the pipeline's too.
        from .pipeline_rogle import PIPELINES

        model_class, auto_map = type(self), getattr(self.config, "auto_map", None)
        pipelines = getattr(self.config, "custom_pipelines", None)
        self.config.custom_pipelines = PIPELINES
        auto_class, model_class._auto_class = model_class._auto_class, "AutoModel"
        self.config.auto_map = {
            "AutoConfig": "configuration_rogle.RogleConfig",
            "AutoModel": "modeling_rogle.RogleModel",
            "AutoModelForZeroShotImageClassification": "modeling_rogle.RogleModel",
        }
        try:
            return super().push_to_hub(repo_id, *args, **kwargs)
        finally:
            model_class._auto_class = auto_class
            if pipelines is None:
                del self.config.custom_pipelines
            else:
                self.config.custom_pipelines = pipelines
            if auto_map is None:
                del self.config.auto_map
            else:
                self.config.auto_map = auto_map


def _check_stored(name: str, stored: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Refuses other architectures, and sizes that differ from those of a Rogle checkpoint."""
    if stored.get("model_type") != "rogle":
        raise ValueError(
            f"{name}: model_type {stored.get('model_type')!r} in config.json, only 'rogle' and 'clip' can be read"
        )
    sizes: dict[str, Any] = {"image_size": stored.get("image_size")}
    sizes["max_position_embeddings"] = stored.get("text_config", {}).get("max_position_embeddings")
    for field, value in sizes.items():
        wanted = arguments.get(field, value)
        if value is not None and (list(wanted) != list(value) if field == "image_size" else wanted != value):
            raise ValueError(
                f"{name}: {field} of this Rogle checkpoint is {value} and cannot be changed to {wanted}; other sizes "
                "are for CLIP weights"
            )


__all__ = ["PretrainedRogle"]
