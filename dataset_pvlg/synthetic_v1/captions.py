"""Captions of one synthetic image: two short ones, and a long one with the region of each sentence.

Only visible facts are named. A phrase exists only if all fields that it names are visible. A template is used only if
all its phrases exist, and a sentence about a region exists only if that region has a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dataset_pvlg.synthetic_v1 import caption_words as w
from dataset_pvlg.synthetic_v1.caption_writer import CaptionWriter, slot_keys
from dataset_pvlg.synthetic_v1.identities import Identity
from dataset_pvlg.synthetic_v1.render import View

VERBOSE_SHARE = 0.03  # share of long captions with over 248 CLIP tokens
MIN_WORDS, MAX_WORDS = (76, 104), 124  # 76 words are about 85 CLIP tokens, 124 about 155
MAX_SENTENCES, MAX_VERBOSE_SENTENCES = 9, 40
VERBOSE_WORDS = 222  # certainly over 248 CLIP tokens
SHORT_WORDS = (16, 39)  # 5th and 95th percentile of human captions
_SHORT_ATTEMPTS = 8

_FACETS = frozenset({"build", "gait", "place", "view", "seen", "backdrop"})


@dataclass(frozen=True)
class Captions:
    """The captions of one image.

    Args:
        short: two captions of one to four sentences.
        long: the long caption, the sentence texts joined by a blank.
        sentences: (text, region label, or None for the whole image) in order.
        named: for each sentence the fields of `Identity` that it names. Short captions have no such list, because they
            may be vaguer ("dark", "bag").
    """

    short: list[str]
    long: str
    sentences: list[tuple[str, str | None]]
    named: list[frozenset[str]]


_Template = tuple[str, frozenset[str]]  # text and slots
_TEMPLATES: dict[str, list[_Template]] = {
    label: [(t, slot_keys(t)) for t in templates] for label, templates in w.LONG.items()
}
_VERBOSE: list[_Template] = [(t, slot_keys(t)) for t in w.VERBOSE_WHOLE]


@dataclass(frozen=True)
class _Line:
    """A sentence that is not written yet."""

    template: str
    label: str | None
    fields: frozenset[str]


def _region_line(writer: CaptionWriter, label: str, before: list[_Line]) -> _Line | None:
    """One more sentence about a region, preferably with new facts; None if all facts are used."""
    used_fields = frozenset().union(*(line.fields for line in before))
    used_templates = {line.template for line in before}
    weighted = []
    for template, keys in writer.usable(_TEMPLATES[label]):
        if template in used_templates or (not before and template in w.SECOND_ONLY):
            continue
        new = len(writer.fields(keys) - used_fields)
        if new:
            weighted.append(((template, keys), (0.3 + new) ** 3))
    if not weighted:
        return None
    template, keys = writer.pick(weighted)
    return _Line(template, label, writer.fields(keys))


def _whole_line(writer: CaptionWriter, before: list[_Line]) -> _Line | None:
    """A sentence about the whole person with facets that the earlier ones do not have."""
    used = frozenset().union(*(slot_keys(line.template) & _FACETS for line in before))
    options = [(t, k) for t, k in writer.usable(_TEMPLATES["whole"]) if not (k & used) or not before]
    if not options:
        return None
    template, keys = writer.pick([((t, k), 2.0 if "build" in k else 1.0) for t, k in options])
    return _Line(template, None, writer.fields(keys))


def _extra_line(
    writer: CaptionWriter, lines: list[_Line], summaries: list[_Template], max_whole: int
) -> tuple[_Line | None, int]:
    """One more sentence for a caption that is too short, and its position.

    It describes a region that has one sentence so far in other words, or the whole person while fewer than `max_whole`
    sentences do.
    """
    labels = [line.label for line in lines]
    single = [label for label in dict.fromkeys(labels) if label is not None and labels.count(label) == 1]
    if labels.count(None) < max_whole and (not single or writer.chance(0.5)):
        scenes = [line for line in lines if line.label is None and line.template in w.LONG["whole"]]
        line = _whole_line(writer, scenes) if not summaries or writer.chance(0.5) else None
        if line is None and summaries:
            template, keys = summaries.pop()
            return _Line(template, None, writer.fields(keys)), len(lines)
        if line is not None:
            return line, int(writer.rng.integers(1, len(lines) + 1))
    # The facts of a region may be repeated in other words, in at most three sentences.
    repeated = single or [label for label in dict.fromkeys(labels) if label is not None and labels.count(label) == 2]
    writer.rng.shuffle(repeated)
    for label in repeated:
        used = {line.template for line in lines}
        options = [o for o in writer.usable(_TEMPLATES[label]) if o[0] not in used | w.SECOND_ONLY]
        if options:
            template, keys = writer.pick([(o, 1.0) for o in options])
            position = max(n for n, other in enumerate(labels) if other == label) + 1
            return _Line(template, label, writer.fields(keys)), position
    return None, 0


def _plan_lines(writer: CaptionWriter, labels: frozenset[str]) -> tuple[list[_Line], bool]:
    """The sentences of a long caption in order, before its length is adjusted, and whether it is verbose."""
    groups: dict[str, list[_Line]] = {}
    for label in (label for label in _TEMPLATES if label in labels):
        line = _region_line(writer, label, [])
        if line is not None:
            groups[label] = [line]
    verbose = writer.chance(VERBOSE_SHARE)
    whole = [line for line in [_whole_line(writer, [])] if line]
    if verbose or writer.chance(0.45):
        whole += [line for line in [_whole_line(writer, whole)] if line]

    # Unused facts of a region get a second sentence, the regions with most facts first.
    for label in ("upper body", "head", "lower body", "feet", "bag", "carried item"):
        if label not in groups:
            continue
        count = len(whole) + sum(len(lines) for lines in groups.values())
        if count >= MAX_SENTENCES and not verbose:
            break
        line = _region_line(writer, label, groups[label])
        if line is not None:
            groups[label].append(line)
    order = list(groups)
    if writer.chance(0.5):
        writer.rng.shuffle(order)
    first = whole[:1] if writer.chance(0.6) else []
    lines = [*first, *(line for label in order for line in groups[label])]
    for line in whole[len(first) :]:
        lines.insert(len(lines) if writer.chance(0.6) else int(writer.rng.integers(1, len(lines) + 1)), line)
    return lines, verbose


def _long(writer: CaptionWriter, labels: frozenset[str]) -> tuple[list[tuple[str, str | None]], list[frozenset[str]]]:
    """(text, region label) of each sentence of a long caption, and the fields that each sentence names."""
    lines, verbose = _plan_lines(writer, labels)
    texts = [writer.fill(line.template, by_noun=n == 0 or writer.chance(0.22)) for n, line in enumerate(lines)]

    def count_words() -> int:
        return sum(len(text.split()) for text in texts)

    summaries = writer.usable(_VERBOSE)
    writer.rng.shuffle(summaries)
    if verbose:
        min_words, max_sentences, max_whole = VERBOSE_WORDS, MAX_VERBOSE_SENTENCES, MAX_VERBOSE_SENTENCES
    else:
        min_words, max_sentences, max_whole = int(writer.rng.integers(*MIN_WORDS)), MAX_SENTENCES, 2
    while count_words() < min_words and len(texts) < max_sentences:
        line, position = _extra_line(writer, lines, summaries, max_whole)
        if line is None:
            break
        lines.insert(position, line)
        texts.insert(position, writer.fill(line.template))
    while count_words() > MAX_WORDS and len(texts) > 6 and not verbose:
        scenes = [n for n, line in enumerate(lines) if line.label is None]
        seconds = [n for n in range(1, len(lines)) if lines[n].label and lines[n].label == lines[n - 1].label]
        dropped = (scenes[1:] or seconds or [len(lines) - 1])[-1]
        lines.pop(dropped)
        texts.pop(dropped)
    gender = frozenset({"gender"}) if writer.gender else frozenset()
    pairs = [(text, line.label) for text, line in zip(texts, lines, strict=True)]
    return pairs, [line.fields | gender for line in lines]


def _join_items(items: list[str], writer: CaptionWriter) -> str:
    if len(items) == 3:
        form = writer.pick([("{}, {} and {}", 0.55), ("{} with {} and {}", 0.25), ("{}, {}, and {}", 0.2)])
        return form.format(*items)
    if len(items) == 2:
        return writer.pick([("{} and {}", 0.75), ("{} with {}", 0.25)]).format(*items)
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 3 else items[0]


def _pick_opener(writer: CaptionWriter, slots: set[str], avoid: str) -> str:
    openers = []
    for template, weight in w.SHORT_OPENERS:
        keys = slot_keys(template) - {"wear"}
        needed = {"hair": "hair", "hair_adj": "hair", "gait": "pose"}
        if template != avoid and keys <= writer.phrases.keys() and all(needed[k] in slots for k in keys):
            openers.append((template, weight * (6.0 if keys else 1.0)))
    return writer.pick(openers)


def _write_short(writer: CaptionWriter, avoid: str) -> tuple[str, str]:
    """One short caption and its opener. Slots are filled at the rates of human captions."""
    available, chance = writer.phrases.keys(), writer.chance
    slots = {slot for slot, key, share in w.SHORT_RATES if key in available and chance(share)}
    wear = [
        f"{{{key}}}"
        for slot, key in (("upper", "a_upper_short"), ("lower", "a_lower"), ("shoes", "shoes"))
        if slot in slots
    ]
    if not wear:
        wear = [f"{{{key}}}" for key in ("a_upper_short", "a_lower", "shoes") if key in available][:2]
        wear = wear or ["plain clothes"]
    if "upper" in slots and "inner" in available and chance(0.45):
        wear[0] += " over {inner}"
    opener = _pick_opener(writer, slots, avoid)
    slots -= {"hair"} if "hair" in opener else set()
    slots -= {"pose"} if "{gait}" in opener else set()
    sentences = 1 + int(np.searchsorted(w.SHORT_SENTENCES, writer.rng.random()))
    own = [slot for slot in ("hair", "head", "bag", "carried", "pose") if slot in slots]
    writer.rng.shuffle(own)
    tails: list[str] = []
    if sentences > 1 and len(wear) > 1 and (len(own) < sentences - 1 or chance(0.35)):
        in_opener = 1 if len(wear) == 2 or chance(0.7) else 2
        lowers = _join_items(wear[in_opener:], writer)
        wear = wear[:in_opener]
        tails.append(writer.pick(w.SHORT_LOWER).replace("{lowers}", lowers))
    own_sentences = own[: max(0, sentences - 1 - len(tails))]
    clauses: list[str] = []
    for slot in w.SHORT_ORDER:
        if slot not in own:
            continue
        if slot in own_sentences:
            tails.append(writer.pick([t for t in w.SHORT_TAILS[slot] if slot_keys(t) <= available]))
        elif slot == "head":
            wear.append(
                "{glasses}" if "glasses" in available and ("a_hat" not in available or chance(0.5)) else "{a_hat}"
            )
        else:
            clauses.append(writer.pick([t for t in w.SHORT_CLAUSES[slot] if slot_keys(t) <= available]))
    opening = opener.replace("{wear}", _join_items(wear, writer))
    if clauses:
        joined = " and ".join(clauses) if len(clauses) < 3 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
        opening += writer.pick([", ", ", ", ", " if joined.startswith("with") else " while "]) + joined
    if chance(0.3):
        writer.rng.shuffle(tails)
    return " ".join(writer.fill(t) + "." for t in [opening, *tails]), opener


def _short(
    identity: Identity,
    view: View,
    visible: frozenset[str],
    rng: np.random.Generator,
    avoid: str,
    new_colours: Mapping[str, str] | None,
) -> tuple[str, str]:
    """A short caption of a human length with another opener than `avoid`, and its opener."""
    attempts = []
    for _ in range(_SHORT_ATTEMPTS):
        attempts.append(_write_short(CaptionWriter(identity, view, visible, rng, True, new_colours), avoid))
        if SHORT_WORDS[0] <= len(attempts[-1][0].split()) <= SHORT_WORDS[1]:
            return attempts[-1]
    return max(attempts, key=lambda attempt: len(attempt[0]))  # few facts are visible


def write_captions(
    identity: Identity,
    view: View,
    visible: frozenset[str],
    labels: frozenset[str],
    rng: np.random.Generator,
    new_colours: Mapping[str, str] | None = None,
) -> Captions:
    """Writes two short captions and a long one for an image.

    Args:
        identity: the person.
        view: how the person is seen.
        visible: names of the fields of `Identity` that are visible in the image. No other field is named.
        labels: labels of the regions that have a box.
        rng: random generator. Equal arguments and states give equal captions.
        new_colours: see [`CaptionWriter`]. None: the colours of `identity`.

    Returns:
        The captions.
    """
    first, opener = _short(identity, view, visible, rng, "", new_colours)
    second, _ = _short(identity, view, visible, rng, opener, new_colours)
    sentences, named = _long(CaptionWriter(identity, view, visible, rng, False, new_colours), labels)
    return Captions([first, second], " ".join(text for text, _ in sentences), sentences, named)


__all__ = ["Captions", "write_captions"]
