"""A colour word of a caption swapped, and the image edited to match by a diffusion model (proximity data generation,
arXiv 2311.09084).

There, null-text inversion with prompt-to-prompt attention control edits the image. Here the edit is one of the
pipelines that `diffusers` ships: a model trained on instructions (InstructPix2Pix, arXiv 2211.09800) where the named
model is one, else inversion with attention masks (LEDITS++, arXiv 2311.16711) on any Stable Diffusion model. Outside
the boxes of the sentences that name the thing, where there are any, the image stays as it was.

Known gaps: the model is not fine-tuned on the domain first, images are not enlarged by super-resolution, words are
not re-weighted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

COLOUR_WORDS = ("black", "white", "grey", "blue", "red", "green", "yellow", "pink", "purple", "brown", "orange")
_SPELT = {"gray": "grey", "violet": "purple"}
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
_REACH = 3  # words from a colour to the noun after it
_CHANGED = ("upper", "lower", "shoes", "bag", "hat")


@dataclass(frozen=True)
class ColourEdit:
    """old, new: colour words. kind: what wears it; noun: the caption's own word for that."""

    old: str
    new: str
    kind: str
    noun: str

    @property
    def what(self) -> str:
        return f"{self.kind}-{self.new}"


def coloured_things(texts: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour -> (kind, noun) of every colour that all texts give to things of one kind alone, one that can change.

    A colour belongs to the first known noun within three words after it, else to the last one before it in the sentence
    ("the jacket is red"). A colour of two things, or of something unknown, is left out: to change one of the two only
    would take an understanding of the sentence.
    """
    found: dict[str, set[tuple[str, str] | None]] = {}
    for text in texts:
        words = [word.lower() for word in _TOKEN.findall(text)]
        for n, word in enumerate(words):
            colour = _SPELT.get(word, word)
            if colour not in COLOUR_WORDS:
                continue
            after = []
            for other in words[n + 1 : n + 1 + _REACH]:
                if other in ".;!?":
                    break
                after.append(other)
            before = []
            for other in reversed(words[:n]):
                if other in ".;!?":
                    break
                before.append(other)
            noun = next((other for other in [*after, *before] if other in NOUNS), None)
            found.setdefault(colour, set()).add((NOUNS[noun], noun) if noun else None)
    things = {}
    for colour, owners in found.items():
        kinds = {owner and owner[0] for owner in owners}
        if len(kinds) == 1 and (kind := kinds.pop()) in _CHANGED:
            things[colour] = (kind, min(noun for _, noun in owners))
    return things


def choose_edit(texts: Sequence[str], rng: np.random.Generator) -> ColourEdit | None:
    """One thing of the texts in a colour that none of them names; None where there is nothing to change."""
    things = coloured_things(texts)
    named = {_SPELT.get(word.lower(), word.lower()) for text in texts for word in _TOKEN.findall(text)}
    spare = [colour for colour in COLOUR_WORDS if colour not in named]
    if not things or not spare:
        return None
    old = sorted(things)[int(rng.integers(len(things)))]
    kind, noun = things[old]
    return ColourEdit(old, spare[int(rng.integers(len(spare)))], kind, noun)


def swap_colour(text: str, edit: ColourEdit) -> str:
    """The text with every mention of the old colour saying the new one; "a" and "an" agree with it."""
    spellings = [edit.old, *(other for other, plain in _SPELT.items() if plain == edit.old)]

    def say(match: re.Match) -> str:
        article, blank, word = match["article"] or "", match["blank"] or "", match["colour"]
        new = edit.new.capitalize() if word[0].isupper() else edit.new
        if article:
            article = article[0] + ("n" if edit.new[0] in "aeiou" else "")
        return article + blank + new

    pattern = rf"(?:\b(?P<article>an?)(?P<blank>\s+))?\b(?P<colour>{'|'.join(spellings)})\b"
    return re.sub(pattern, say, text, flags=re.IGNORECASE)


def swap_in_row(row: Mapping, edit: ColourEdit) -> dict:
    """`caption`, `sentences` and `captions` of a P-VLG row with the colour swapped, offsets true."""
    caption, sentences, pieces, at, length = row["caption"], [], [], 0, 0
    for sentence in row["sentences"]:
        gap, text = swap_colour(caption[at : sentence["start"]], edit), swap_colour(sentence["text"], edit)
        pieces += [gap, text]
        sentences.append({"text": text, "start": length + len(gap), "end": length + len(gap) + len(text)})
        at, length = sentence["end"], length + len(gap) + len(text)
    pieces.append(swap_colour(caption[at:], edit))
    short = [swap_colour(text, edit) for text in row["captions"]]
    return {"caption": "".join(pieces), "sentences": sentences, "captions": short}


class ImageEditor:
    """A diffusion pipeline by folder or Hub name.

    Args:
        model: of diffusers; its own class decides how it edits, see the module's docstring.
        steps: of denoising.
        device: where it runs; None: a GPU if there is one.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: the model cannot be read.
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
            self.instructed = "InstructPix2Pix" in config["_class_name"]
            kind = StableDiffusionInstructPix2PixPipeline if self.instructed else LEditsPPPipelineStableDiffusion
            # Pedestrians are not what a safety checker is for; it would blacken images unasked.
            self.pipeline = kind.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"--editor {model}: {' '.join(str(error).split())}") from error
        if not self.instructed:  # the inversion is written for this solver
            self.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
                self.pipeline.scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2
            )
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(device or best_device())
        self.steps, self._torch = steps, torch
        self.side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    def edit(self, image: Image.Image, edit: ColourEdit, boxes: Sequence[Sequence[float]] = (), seed: int = 0):
        """The image with the thing in its new colour, of the same size.

        Args:
            image: RGB.
            boxes: x, y, w, h in pixels: what lies outside all of them stays; none: everything may change.
            seed: of the noise; the same gives the same image on the same machine.
        """
        image = image.convert("RGB")
        height = max(64, self.side // 64 * 64)
        width = max(64, round(image.width * height / image.height / 64) * 64)
        generator = self._torch.Generator().manual_seed(seed)
        small = image.resize((width, height), Image.Resampling.BICUBIC)
        if self.instructed:
            asked = f"make the {edit.old} {edit.noun} {edit.new}"
            made = self.pipeline(asked, small, num_inference_steps=self.steps, generator=generator).images[0]
        else:
            self.pipeline.invert(
                small, num_inversion_steps=self.steps, skip=0.1, generator=generator, height=height, width=width
            )
            made = self.pipeline(
                editing_prompt=[f"{edit.old} {edit.noun}", f"{edit.new} {edit.noun}"],
                reverse_editing_direction=[True, False],
                edit_guidance_scale=[5.0, 7.5],
                edit_threshold=[0.9, 0.8],
                generator=generator,
            ).images[0]
        made = made.convert("RGB").resize(image.size, Image.Resampling.BICUBIC)
        return paste_inside(image, made, boxes) if len(boxes) else made


def paste_inside(image: Image.Image, edited: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """`edited` inside the boxes (x, y, w, h), fading over two pixels at their inner edges; `image` outside of them."""
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
    "swap_in_row",
]
