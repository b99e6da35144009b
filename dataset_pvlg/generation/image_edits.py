"""Colour edits of captions and images (proximity data generation, arXiv 2311.09084).

One colour word of the captions is replaced, and a diffusion model edits the image to match. The paper edits images by
null-text inversion with prompt-to-prompt attention control. This module uses pipelines that `diffusers` ships instead:
InstructPix2Pix (arXiv 2211.09800) if the named model is one, otherwise LEDITS++ (arXiv 2311.16711), which is inversion
with attention masks for any Stable Diffusion model. If the sentences that name the edited thing have bounding boxes,
pixels outside these boxes do not change.

Known gaps: the model is not fine-tuned on the domain first, images are not enlarged by super-resolution, and words are
not re-weighted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from PIL import Image, ImageFilter

from modeling_rogle.image_io import to_rgb

COLOUR_WORDS = ("black", "white", "grey", "blue", "red", "green", "yellow", "pink", "purple", "brown", "orange")
_VARIANTS = {"gray": "grey", "violet": "purple"}
_KINDS = {
    "upper": "shirt shirts t-shirt top sweater pullover hoodie sweatshirt jacket coat blouse vest dress sleeves",
    "lower": "pants trousers jeans shorts skirt leggings slacks tights",
    "shoes": "shoes shoe sneakers boots sandals heels footwear trainers",
    "bag": "bag backpack rucksack handbag purse suitcase luggage",
    "hat": "hat cap beanie",
    "other": "hair head face background wall street grass umbrella phone book bottle glasses sunglasses socks belt "
    "scarf stripes dots logo pattern strap straps skin bicycle car sole soles",
}
NOUNS = {noun: kind for kind, nouns in _KINDS.items() for noun in nouns.split()}
_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*|[.;!?]")
_SENTENCE_ENDS = ".;!?"
_MAX_DISTANCE = 3  # words between a colour and the noun after it
_EDITABLE_KINDS = ("upper", "lower", "shoes", "bag", "hat")


@dataclass(frozen=True)
class ColourEdit:
    """One replaced colour.

    Args:
        old: colour word of the captions.
        new: colour word that replaces it.
        kind: kind of thing with that colour: upper, lower, shoes, bag or hat.
        noun: the captions' own word for the thing.
    """

    old: str
    new: str
    kind: str
    noun: str

    @property
    def name(self) -> str:
        """`kind-colour`, the suffix of the image_id of a generated row."""
        return f"{self.kind}-{self.new}"


def coloured_things(texts: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Finds the colours that all texts give to things of one editable kind only.

    A colour belongs to the first known noun within three words after it, else to the last known noun before it in the
    same sentence ("the jacket is red"). A colour of two kinds of thing, or of an unknown thing, is left out, because
    changing only one of them would require parsing the sentence.

    Args:
        texts: the captions of one image.

    Returns:
        colour -> (kind, noun).
    """
    owners: dict[str, set[tuple[str, str] | None]] = {}
    for text in texts:
        words = [word.lower() for word in _TOKEN.findall(text)]
        for n, word in enumerate(words):
            colour = _VARIANTS.get(word, word)
            if colour not in COLOUR_WORDS:
                continue
            after = _within_sentence(words[n + 1 : n + 1 + _MAX_DISTANCE])
            before = _within_sentence(reversed(words[:n]))
            noun = next((other for other in [*after, *before] if other in NOUNS), None)
            owners.setdefault(colour, set()).add((NOUNS[noun], noun) if noun else None)
    things = {}
    for colour, colour_owners in owners.items():
        known = [owner for owner in colour_owners if owner is not None]
        kinds = {kind for kind, _ in known}
        if len(known) == len(colour_owners) and len(kinds) == 1 and (kind := kinds.pop()) in _EDITABLE_KINDS:
            things[colour] = (kind, min(noun for _, noun in known))
    return things


def _within_sentence(words: Iterable[str]) -> list[str]:
    """The words up to the first mark that ends a sentence."""
    return list(takewhile(lambda word: word not in _SENTENCE_ENDS, words))


def choose_edit(texts: Sequence[str], rng: np.random.Generator) -> ColourEdit | None:
    """Chooses a thing of the texts and a new colour that none of them names.

    Args:
        texts: the captions of one image.
        rng: random generator of both choices.

    Returns:
        The edit, or None if there is nothing to change.
    """
    things = coloured_things(texts)
    named = {_VARIANTS.get(word.lower(), word.lower()) for text in texts for word in _TOKEN.findall(text)}
    unused = [colour for colour in COLOUR_WORDS if colour not in named]
    if not things or not unused:
        return None
    old = sorted(things)[int(rng.integers(len(things)))]
    kind, noun = things[old]
    return ColourEdit(old, unused[int(rng.integers(len(unused)))], kind, noun)


def swap_colour(text: str, edit: ColourEdit) -> str:
    """Replaces every mention of the old colour by the new one, and adapts "a" and "an" before it."""
    spellings = [edit.old, *(variant for variant, plain in _VARIANTS.items() if plain == edit.old)]

    def replace(match: re.Match) -> str:
        article, blank, word = match["article"] or "", match["blank"] or "", match["colour"]
        new = edit.new.capitalize() if word[0].isupper() else edit.new
        if article:
            article = article[0] + ("n" if edit.new[0] in "aeiou" else "")
        return article + blank + new

    pattern = rf"(?:\b(?P<article>an?)(?P<blank>\s+))?\b(?P<colour>{'|'.join(spellings)})\b"
    return re.sub(pattern, replace, text, flags=re.IGNORECASE)


def swap_row_colour(row: Mapping, edit: ColourEdit) -> dict:
    """Applies [`swap_colour`] to all captions of a row.

    Args:
        row: a P-VLG row.
        edit: the replaced colour.

    Returns:
        The new `caption`, `sentences` (with correct offsets) and `captions`.
    """
    caption, sentences, pieces, position, length = row["caption"], [], [], 0, 0
    for sentence in row["sentences"]:
        gap, text = swap_colour(caption[position : sentence["start"]], edit), swap_colour(sentence["text"], edit)
        pieces += [gap, text]
        sentences.append({"text": text, "start": length + len(gap), "end": length + len(gap) + len(text)})
        position, length = sentence["end"], length + len(gap) + len(text)
    pieces.append(swap_colour(caption[position:], edit))
    short = [swap_colour(text, edit) for text in row["captions"]]
    return {"caption": "".join(pieces), "sentences": sentences, "captions": short}


class ImageEditor:
    """A diffusion pipeline that edits the colour of one thing in an image.

    Args:
        model: folder or Hub name of a diffusers pipeline. Its class decides how images are edited, see the module's
            docstring.
        steps: number of denoising steps. Default: 50.
        device: device of the pipeline. None: a GPU if there is one.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: the model cannot be loaded.
    """

    def __init__(self, model: str, steps: int = 50, device: str | None = None):
        try:
            import torch
            from diffusers import (
                DiffusionPipeline,
                DPMSolverMultistepScheduler,
                LEditsPPPipelineStableDiffusion,
                StableDiffusionInstructPix2PixPipeline,
            )
        except ImportError as error:
            raise ImportError("--editor MODEL needs diffusers: pip install 'rogle[pdg]'") from error
        from modeling_rogle.inference.loading import best_device

        try:
            config = DiffusionPipeline.load_config(model)
            self.follows_instructions = "InstructPix2Pix" in config["_class_name"]
            pipeline_class = (
                StableDiffusionInstructPix2PixPipeline if self.follows_instructions else LEditsPPPipelineStableDiffusion
            )
            # A safety checker would replace some images of pedestrians by black ones.
            self.pipeline = pipeline_class.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"--editor {model}: {' '.join(str(error).split())}") from error
        if not self.follows_instructions:  # LEDITS++ inverts with this solver only
            self.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
                self.pipeline.scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2
            )
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(device or best_device())
        self.steps, self._torch = steps, torch
        self.side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    def edit(
        self, image: Image.Image, edit: ColourEdit, boxes: Sequence[Sequence[float]] = (), seed: int = 0
    ) -> Image.Image:
        """Edits one image.

        Args:
            image: any mode; converted to RGB.
            edit: the colour to change.
            boxes: x, y, w, h in pixels. Pixels outside all of them do not change. Empty: every pixel may change.
            seed: seed of the noise. Equal seeds give equal images on one machine. Default: 0.

        Returns:
            An RGB image of the same size.
        """
        image = to_rgb(image)
        height = max(64, self.side // 64 * 64)
        width = max(64, round(image.width * height / image.height / 64) * 64)
        generator = self._torch.Generator().manual_seed(seed)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        if self.follows_instructions:
            instruction = f"make the {edit.old} {edit.noun} {edit.new}"
            result = self.pipeline(instruction, resized, num_inference_steps=self.steps, generator=generator)
        else:
            self.pipeline.invert(
                resized, num_inversion_steps=self.steps, skip=0.1, generator=generator, height=height, width=width
            )
            result = self.pipeline(
                editing_prompt=[f"{edit.old} {edit.noun}", f"{edit.new} {edit.noun}"],
                reverse_editing_direction=[True, False],
                edit_guidance_scale=[5.0, 7.5],
                edit_threshold=[0.9, 0.8],
                generator=generator,
            )
        edited = result.images[0].convert("RGB").resize(image.size, Image.Resampling.BICUBIC)
        return paste_inside(image, edited, boxes) if len(boxes) else edited


def paste_inside(image: Image.Image, edited: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """Combines two images of equal size.

    Args:
        image: used outside the boxes.
        edited: used inside the boxes; it is blended with `image` over about two pixels at their inner edges.
        boxes: x, y, w, h in pixels.

    Returns:
        The combined image.
    """
    mask = np.zeros((image.height, image.width), dtype=np.uint8)
    for x, y, w, h in boxes:
        mask[max(0, int(y)) : int(np.ceil(y + h)), max(0, int(x)) : int(np.ceil(x + w))] = 255
    soft = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(2)))
    soft = np.where(mask, soft, 0).astype(np.uint8)
    return Image.composite(edited, image, Image.fromarray(soft))


__all__ = [
    "ColourEdit",
    "ImageEditor",
    "choose_edit",
    "coloured_things",
    "paste_inside",
    "swap_colour",
    "swap_row_colour",
]
