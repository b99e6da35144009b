"""A vision-language model that writes captions: any `image-text-to-text` model of transformers, by its name."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList
from transformers.utils import is_torchvision_available

from dataset_pvlg.captioning.caption_filter import MIN_SENTENCES, MIN_WORDS
from modeling_rogle.sentences import split_sentences

# 2.2 B parameters, Apache-2.0. The processor of its family, Idefics3, works without torchvision. Those of
# LLaVA-OneVision and Qwen3-VL load a video processor even for images, which needs torchvision.
DEFAULT_CAPTIONER = "HuggingFaceTB/SmolVLM-Instruct"

_MAX_FACTS = 12  # sentences in the prompt; an image of CUHK-PEDES has ten captions
_CONTROL = re.compile(r"[<>\[\]{}|]")  # in a caption, they could be read as control tokens of the model


def _option(default: int | float, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class CaptionOptions:
    """How captions are generated, and which are accepted. Each field has its help text as `metadata["help"]`.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    max_new_tokens: int = _option(220, "largest number of tokens in a caption")
    temperature: float = _option(0.0, "sampling temperature; 0 takes the most likely token")
    seed: int = _option(0, "seed of the sampling, used together with the image_id")
    min_words: int = _option(MIN_WORDS, "captions with fewer words are rejected")
    min_sentences: int = _option(MIN_SENTENCES, "captions with fewer sentences are rejected")

    def __post_init__(self) -> None:
        for name, minimum in (("max_new_tokens", 1), ("temperature", 0), ("min_words", 0), ("min_sentences", 0)):
            if not minimum <= getattr(self, name) < 1e6:
                raise ValueError(f"captioner: {name} is {getattr(self, name)}, not a number from {minimum}")


class Captioner:
    """A vision-language model that writes captions. On a GPU it runs in bfloat16.

    Args:
        model_name (`str`): a folder or a name on the Hub, of a model that `AutoModelForImageTextToText` supports and
            that has a chat template.
        prompt (`str` or `Path`, *optional*): file with the prompt, with `{facts}` where the human captions go; None
            for `prompts/describe.txt`.
        options (`CaptionOptions`, *optional*): None for the defaults.
        device (`str` or `torch.device`): where the model runs.

    Raises:
        ValueError: the model or the prompt cannot be read, or the model needs torchvision, which is not installed; one
            line.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_CAPTIONER,
        prompt: str | Path | None = None,
        options: CaptionOptions | None = None,
        device: str | torch.device = "cpu",
    ):
        self.options = options or CaptionOptions()
        self.prompt = _read_prompt(prompt)
        self.name = Path(model_name).resolve().name if os.path.isdir(model_name) else str(model_name)
        self.processor = _load_processor(model_name)
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
        try:
            model = AutoModelForImageTextToText.from_pretrained(model_name, dtype=dtype, use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"captioner {model_name}: {_first_line(error)}") from error
        self.model = model.to(device).eval()
        generation = self.model.generation_config
        generation.do_sample, generation.num_beams = False, 1
        generation.temperature = generation.top_p = generation.top_k = None  # without sampling they cause a warning
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        generation.pad_token_id = tokenizer.pad_token_id
        end_ids = generation.eos_token_id if generation.eos_token_id is not None else tokenizer.eos_token_id
        self._end_ids = set(end_ids if isinstance(end_ids, list) else [end_ids])

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able: everything that the captions depend on, besides the rows and the batch size."""
        return {
            "captioner": self.name,
            "commit": getattr(self.model.config, "_commit_hash", None),
            "prompt_sha256": hashlib.sha256(self.prompt.encode()).hexdigest(),
            **asdict(self.options),
        }

    def fill_prompt(self, facts: str) -> str:
        """The prompt for an image with the human captions `facts`."""
        return self.prompt.replace("{facts}", _as_list(facts))

    @torch.inference_mode()
    def describe(
        self, images: Sequence[Image.Image], facts: Sequence[str], image_ids: Sequence[str]
    ) -> list[tuple[str, bool]]:
        """Generate one answer for each image.

        Args:
            images (`Sequence[Image.Image]`): RGB images of any size.
            facts (`Sequence[str]`): the human captions of each image; may be empty.
            image_ids (`Sequence[str]`): keys of the random draws, used if `temperature` is above 0.

        Returns:
            `list[tuple[str, bool]]`: the text as the model gives it, and whether the model ended it.
        """
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": image},
                        {"type": "text", "text": self.fill_prompt(image_facts)},
                    ],
                }
            ]
            for image, image_facts in zip(images, facts, strict=True)
        ]
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        ).to(self.model.device, dtype=self.model.dtype)
        sampling = LogitsProcessorList()
        if self.options.temperature > 0:
            sampling.append(KeyedSampling(self.options.temperature, self.options.seed, image_ids))
        output = self.model.generate(**inputs, max_new_tokens=self.options.max_new_tokens, logits_processor=sampling)
        if not self.model.config.is_encoder_decoder:
            output = output[:, inputs["input_ids"].shape[1] :]
        ended = [bool(self._end_ids & set(tokens)) for tokens in output.tolist()]
        texts = self.processor.batch_decode(output, skip_special_tokens=True)
        return list(zip(texts, ended, strict=True))


class KeyedSampling(LogitsProcessor):
    """Sampling with the Gumbel-max trick: the argmax of logits / temperature + Gumbel noise samples from the softmax.

    Each row of a batch has its own noise, so that a caption does not depend on the other rows of its batch.

    Args:
        temperature (`float`): sampling temperature, above 0.
        seed (`int`): seed of all draws.
        keys (`Sequence[str]`): key of each row of the batch.
    """

    def __init__(self, temperature: float, seed: int, keys: Sequence[str]):
        self.temperature = temperature
        digests = [hashlib.sha256(f"{seed}/{key}".encode()).digest() for key in keys]
        self.generators = [torch.Generator().manual_seed(int.from_bytes(digest[:7])) for digest in digests]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Add noise to the logits, [B, V] -> [B, V]."""
        noise = [-torch.empty(scores.shape[1]).exponential_(generator=row).log() for row in self.generators]
        return scores.float() / self.temperature + torch.stack(noise).to(scores.device)


def _as_list(facts: str) -> str:
    sentences = [" ".join(_CONTROL.sub(" ", text).split()) for text, _, _ in split_sentences(facts)]
    return "\n".join(f"- {text}" for text in sentences[:_MAX_FACTS]) or "- (nothing)"


def _read_prompt(file: str | Path | None) -> str:
    source = resources.files("dataset_pvlg.captioning") / "prompts" / "describe.txt" if file is None else Path(file)
    try:
        prompt = source.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt {file}: {_first_line(error)}") from error
    if "{facts}" not in prompt:
        raise ValueError(f"prompt {file}: holds no {{facts}}, which marks where the human captions go")
    return prompt


def _load_processor(model_name: str) -> Any:
    if not os.path.isdir(model_name) and (model_name.startswith(("/", ".", "~")) or model_name.count("/") > 1):
        raise ValueError(f"captioner {model_name}: no such folder")
    try:
        processor = AutoProcessor.from_pretrained(model_name)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        if "torchvision" in str(error).lower() and not is_torchvision_available():
            raise ValueError(
                f"captioner {model_name}: its processor needs torchvision, which is not installed; install the version "
                f"for this torch, or use a model that does not need it, such as {DEFAULT_CAPTIONER}"
            ) from error
        raise ValueError(f"captioner {model_name}: {_first_line(error)}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ValueError(f"captioner {model_name}: has no processor for images and text; it is no image-text-to-text")
    if not (getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)):
        raise ValueError(f"captioner {model_name}: has no chat template; use an instruction-tuned model")
    return processor


def _first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


__all__ = ["DEFAULT_CAPTIONER", "CaptionOptions", "Captioner", "KeyedSampling"]
