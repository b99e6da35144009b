"""A vision-language model that writes captions: any `image-text-to-text` model of transformers, by its name."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList
from transformers.utils import is_torchvision_available

from dataset_pvlg.captioning.caption_filter import MIN_SENTENCES, MIN_WORDS
from modeling_rogle.sentences import split_sentences

# Of the Idefics3 family, whose processor works without torchvision (LLaVA-OneVision's and Qwen3-VL's do not: they load
# a video processor even for images); 2.2 B parameters, Apache-2.0.
DEFAULT_CAPTIONER = "HuggingFaceTB/SmolVLM-Instruct"

_MOST_FACTS = 12  # sentences told to the model; an image of CUHK-PEDES has ten captions
_CONTROL = re.compile(r"[<>\[\]{}|]")  # in a source's caption they could pass for the model's own control words


@dataclass(frozen=True)
class CaptionOptions:
    """How captions are made and which are accepted.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    max_new_tokens: int = 220
    temperature: float = 0.0  # 0: the likeliest word each time; above, words are drawn
    seed: int = 0  # of the draws, together with the image_id
    min_words: int = MIN_WORDS
    min_sentences: int = MIN_SENTENCES

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("temperature", 0), ("min_words", 0), ("min_sentences", 0)):
            if not least <= getattr(self, name) < 1e6:
                raise ValueError(f"captioner: {name} is {getattr(self, name)}, not a number from {least}")


class Captioner:
    """A vision-language model that writes captions.

    Args:
        model_name: a folder or a name on the Hub, of any model that `AutoModelForImageTextToText` knows and that has a
            chat template.
        prompt: file of what is asked, with `{facts}` where the human captions go; None for `prompts/describe.txt`.
        options: see [`CaptionOptions`].
        device: where it runs; on a GPU in bfloat16.

    Raises:
        ValueError: the model or the prompt cannot be read, or the model needs torchvision and there is none; one line.
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
            raise ValueError(f"captioner {model_name}: {first_line(error)}") from error
        self.model = model.to(device).eval()
        settings = self.model.generation_config
        settings.do_sample, settings.num_beams = False, 1
        settings.temperature = settings.top_p = settings.top_k = None  # of no use without drawing, and warned of
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        settings.pad_token_id = tokenizer.pad_token_id
        ends = settings.eos_token_id if settings.eos_token_id is not None else tokenizer.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able: all that the captions follow from, beside the rows and the batch size."""
        return {
            "captioner": self.name,
            "commit": getattr(self.model.config, "_commit_hash", None),
            "prompt_sha256": hashlib.sha256(self.prompt.encode()).hexdigest(),
            **asdict(self.options),
        }

    def ask(self, facts: str) -> str:
        """The prompt for an image of which people wrote `facts`."""
        return self.prompt.replace("{facts}", _as_list(facts))

    @torch.inference_mode()
    def describe(
        self, images: Sequence[Image.Image], facts: Sequence[str], image_ids: Sequence[str]
    ) -> list[tuple[str, bool]]:
        """One answer for each image as the model gives it, and whether the model had ended.

        Args:
            images: RGB images of any size.
            facts: what people wrote of each; may be empty.
            image_ids: what the draws are keyed by where `temperature` is above 0.
        """
        asked = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": image},
                        {"type": "text", "text": self.ask(known)},
                    ],
                }
            ]
            for image, known in zip(images, facts, strict=True)
        ]
        inputs = self.processor.apply_chat_template(
            asked,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        ).to(self.model.device, dtype=self.model.dtype)
        draws = LogitsProcessorList()
        if self.options.temperature > 0:
            draws.append(_KeyedDraw(self.options.temperature, self.options.seed, image_ids))
        output = self.model.generate(**inputs, max_new_tokens=self.options.max_new_tokens, logits_processor=draws)
        if not self.model.config.is_encoder_decoder:
            output = output[:, inputs["input_ids"].shape[1] :]
        ended = [bool(self._ends & set(tokens)) for tokens in output.tolist()]
        texts = self.processor.batch_decode(output, skip_special_tokens=True)
        return list(zip(texts, ended, strict=True))


class _KeyedDraw(LogitsProcessor):
    """Draws by the Gumbel-max trick: the largest of logits / temperature + Gumbel noise is a draw from the softmax.

    Each row of a batch has noise of its own, so that a caption does not depend on what else is in the batch.
    """

    def __init__(self, temperature: float, seed: int, keys: Sequence[str]):
        self.temperature = temperature
        digests = [hashlib.sha256(f"{seed}/{key}".encode()).digest() for key in keys]
        self.generators = [torch.Generator().manual_seed(int.from_bytes(digest[:7])) for digest in digests]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noise = [-torch.empty(scores.shape[1]).exponential_(generator=each).log() for each in self.generators]
        return scores.float() / self.temperature + torch.stack(noise).to(scores.device)


def _as_list(facts: str) -> str:
    sentences = [" ".join(_CONTROL.sub(" ", text).split()) for text, _, _ in split_sentences(facts)]
    return "\n".join(f"- {text}" for text in sentences[:_MOST_FACTS]) or "- (nothing)"


def _read_prompt(file: str | Path | None) -> str:
    source = resources.files("dataset_pvlg.captioning") / "prompts" / "describe.txt" if file is None else Path(file)
    try:
        prompt = source.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt {file}: {first_line(error)}") from error
    if "{facts}" not in prompt:
        raise ValueError(f"prompt {file}: holds no {{facts}}, the place for what people wrote")
    return prompt


def _load_processor(model_name: str) -> Any:
    if not os.path.isdir(model_name) and (model_name.startswith(("/", ".", "~")) or model_name.count("/") > 1):
        raise ValueError(f"captioner {model_name}: no such folder")
    try:
        processor = AutoProcessor.from_pretrained(model_name)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        if "torchvision" in str(error).lower() and not is_torchvision_available():
            raise ValueError(
                f"captioner {model_name}: its processor needs torchvision, which is not installed; install the one "
                f"that belongs to this torch, or choose a model that does without, as {DEFAULT_CAPTIONER}"
            ) from error
        raise ValueError(f"captioner {model_name}: {first_line(error)}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ValueError(f"captioner {model_name}: has no processor of images and text; it is no image-text-to-text")
    if not (getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)):
        raise ValueError(f"captioner {model_name}: has no chat template; choose a model tuned on instructions")
    return processor


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


__all__ = ["DEFAULT_CAPTIONER", "CaptionOptions", "Captioner", "first_line"]
