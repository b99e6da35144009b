"""Captions of one synthetic picture: two short ones and a long one whose sentences know their region.

Only what the picture shows is said: a phrase exists only where every field it names is visible, a template is used
only where all its phrases exist, and a sentence about a region exists only where that region has a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dataset_pvlg.synthetic import caption_words as w
from dataset_pvlg.synthetic.caption_writer import Speaker, slot_keys
from dataset_pvlg.synthetic.identities import Identity
from dataset_pvlg.synthetic.render import View

VERBOSE_SHARE = 0.03  # long captions over 248 CLIP tokens
MIN_WORDS, MAX_WORDS = (76, 104), 124  # 76 words are about 85 CLIP tokens, 124 about 155
VERBOSE_WORDS = 222  # surely over 248 CLIP tokens

_FACETS = frozenset({"build", "gait", "place", "view", "seen", "backdrop"})


@dataclass(frozen=True)
class Captions:
    """What is said about one picture.

    short: two captions of one to four sentences. long: the long caption, `" ".join` of the sentence texts.
    sentences: (text, region label or None for the whole picture) in order. named: for each sentence the identity
    fields it names; short captions may be vaguer ("dark", "bag") and have no such list.
    """

    short: list[str]
    long: str
    sentences: list[tuple[str, str | None]]
    named: list[frozenset[str]]


_TEMPLATES = {label: [(t, slot_keys(t)) for t in templates] for label, templates in w.LONG.items()}
_VERBOSE = [(t, slot_keys(t)) for t in w.VERBOSE_WHOLE]


@dataclass(frozen=True)
class _Line:
    template: str
    label: str | None
    fields: frozenset[str]


def _region_line(speaker: Speaker, label: str, before: list[_Line]) -> _Line | None:
    """One more sentence about a region, preferring what has not been said of it; None when all has been said."""
    said = frozenset().union(*(line.fields for line in before))
    used = {line.template for line in before}
    weighted = []
    for template, keys in speaker.usable(_TEMPLATES[label]):
        if template in used or (not before and template in w.SECOND_ONLY):
            continue
        new = len(speaker.fields(keys) - said)
        if new:
            weighted.append(((template, keys), (0.3 + new) ** 3))
    if not weighted:
        return None
    template, keys = speaker.pick(weighted)
    return _Line(template, label, speaker.fields(keys))


def _whole_line(speaker: Speaker, before: list[_Line]) -> _Line | None:
    told = frozenset().union(*(slot_keys(line.template) & _FACETS for line in before))
    options = [(t, k) for t, k in speaker.usable(_TEMPLATES["whole"]) if not (k & told) or not before]
    if not options:
        return None
    template, keys = speaker.pick([((t, k), 2.0 if "build" in k else 1.0) for t, k in options])
    return _Line(template, None, speaker.fields(keys))


def _filler(
    speaker: Speaker, lines: list[_Line], summaries: list[tuple[str, frozenset[str]]], most: int
) -> tuple[_Line | None, int]:
    """Another sentence for a caption that is too short, and its place: a region that has one sentence so far, in other
    words, or the whole person while fewer than `most` sentences are about that."""
    told = [line.label for line in lines]
    single = [label for label in dict.fromkeys(told) if label is not None and told.count(label) == 1]
    if told.count(None) < most and (not single or speaker.chance(0.5)):
        scenes = [line for line in lines if line.label is None and line.template in w.LONG["whole"]]
        line = _whole_line(speaker, scenes) if not summaries or speaker.chance(0.5) else None
        if line is None and summaries:
            template, keys = summaries.pop()
            return _Line(template, None, speaker.fields(keys)), len(lines)
        if line is not None:
            return line, int(speaker.rng.integers(1, len(lines) + 1))
    # a region with few facts hears them again in other words; with three sentences at most
    again = single or [label for label in dict.fromkeys(told) if label is not None and told.count(label) == 2]
    speaker.rng.shuffle(again)
    for label in again:
        used = {line.template for line in lines}
        options = [o for o in speaker.usable(_TEMPLATES[label]) if o[0] not in used | w.SECOND_ONLY]
        if options:
            template, keys = speaker.pick([(o, 1.0) for o in options])
            place = max(n for n, about in enumerate(told) if about == label) + 1
            return _Line(template, label, speaker.fields(keys)), place
    return None, 0


def _long(speaker: Speaker, labels: frozenset[str]) -> tuple[list[tuple[str, str | None]], list[frozenset[str]]]:
    regions = [label for label in _TEMPLATES if label in labels]
    groups: dict[str, list[_Line]] = {}
    for label in regions:
        line = _region_line(speaker, label, [])
        if line is not None:
            groups[label] = [line]
    verbose = speaker.chance(VERBOSE_SHARE)
    whole = [line for line in [_whole_line(speaker, [])] if line]
    if verbose or speaker.chance(0.45):
        whole += [line for line in [_whole_line(speaker, whole)] if line]

    def count() -> int:
        return len(whole) + sum(len(lines) for lines in groups.values())

    # What is still unsaid of a region gets a second sentence, the richest regions first.
    second = [label for label in ("upper body", "head", "lower body", "feet", "bag", "carried item") if label in groups]
    for label in second:
        if count() >= 9 and not verbose:
            break
        line = _region_line(speaker, label, groups[label])
        if line is not None:
            groups[label].append(line)
    order = list(groups)
    if speaker.chance(0.5):
        speaker.rng.shuffle(order)
    lines = [line for label in order for line in groups[label]]
    first = whole[:1] if speaker.chance(0.6) else []
    lines = [*first, *lines]
    for line in whole[len(first) :]:
        lines.insert(len(lines) if speaker.chance(0.6) else int(speaker.rng.integers(1, len(lines) + 1)), line)
    texts = [speaker.fill(line.template, by_noun=n == 0 or speaker.chance(0.22)) for n, line in enumerate(lines)]

    def words() -> int:
        return sum(len(text.split()) for text in texts)

    spare = speaker.usable(_VERBOSE)
    speaker.rng.shuffle(spare)
    goal, most = (VERBOSE_WORDS, 40) if verbose else (int(speaker.rng.integers(*MIN_WORDS)), 9)
    while words() < goal and len(texts) < most:
        line, at = _filler(speaker, lines, spare, 40 if verbose else 2)
        if line is None:
            break
        lines.insert(at, line)
        texts.insert(at, speaker.fill(line.template))
    while words() > MAX_WORDS and len(texts) > 6 and not verbose:
        scenes = [n for n, line in enumerate(lines) if line.label is None]
        seconds = [n for n in range(1, len(lines)) if lines[n].label and lines[n].label == lines[n - 1].label]
        drop = (scenes[1:] or seconds or [len(lines) - 1])[-1]
        lines.pop(drop)
        texts.pop(drop)
    gender = frozenset({"gender"}) if speaker.gender else frozenset()
    pairs = [(text, line.label) for text, line in zip(texts, lines, strict=True)]
    return pairs, [line.fields | gender for line in lines]


def _listed(items: list[str], speaker: Speaker) -> str:
    if len(items) == 3:
        form = speaker.pick([("{}, {} and {}", 0.55), ("{} with {} and {}", 0.25), ("{}, {}, and {}", 0.2)])
        return form.format(*items)
    if len(items) == 2:
        return speaker.pick([("{} and {}", 0.75), ("{} with {}", 0.25)]).format(*items)
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 3 else items[0]


def _short_once(speaker: Speaker, avoid: str) -> tuple[str, str]:
    """One short caption and the opener it used, with slots drawn at the rates of human captions."""
    have, chance = speaker.phrases.keys(), speaker.chance
    slots = {slot for slot, key, share in w.SHORT_RATES if key in have and chance(share)}
    wear = [
        f"{{{key}}}"
        for slot, key in (("upper", "a_upper_short"), ("lower", "a_lower"), ("shoes", "shoes"))
        if slot in slots
    ]
    if not wear:
        wear = [f"{{{key}}}" for key in ("a_upper_short", "a_lower", "shoes") if key in have][:2] or ["plain clothes"]
    if "upper" in slots and "inner" in have and chance(0.45):
        wear[0] += " over {inner}"
    openers = []
    for template, weight in w.SHORT_OPENERS:
        keys = slot_keys(template) - {"wear"}
        wants = {"hair": "hair", "hair_adj": "hair", "gait": "pose"}
        if template != avoid and keys <= have and all(wants[k] in slots for k in keys):
            openers.append((template, weight * (6.0 if keys else 1.0)))
    opener = speaker.pick(openers)
    slots -= {"hair"} if "hair" in opener else set()
    slots -= {"pose"} if "{gait}" in opener else set()
    sentences = 1 + int(np.searchsorted(w.SHORT_SENTENCES, speaker.rng.random()))
    own = [slot for slot in ("hair", "head", "bag", "carried", "pose") if slot in slots]
    speaker.rng.shuffle(own)
    tails: list[str] = []
    if sentences > 1 and len(wear) > 1 and (len(own) < sentences - 1 or chance(0.35)):
        keep = 1 if len(wear) == 2 or chance(0.7) else 2
        lowers = _listed(wear[keep:], speaker)
        wear = wear[:keep]
        tails.append(speaker.pick(w.SHORT_LOWER).replace("{lowers}", lowers))
    apart = own[: max(0, sentences - 1 - len(tails))]
    clauses: list[str] = []
    for slot in w.SHORT_ORDER:
        if slot not in own:
            continue
        if slot in apart:
            tails.append(speaker.pick([t for t in w.SHORT_TAILS[slot] if slot_keys(t) <= have]))
        elif slot == "head":
            wear.append("{glasses}" if "glasses" in have and ("a_hat" not in have or chance(0.5)) else "{a_hat}")
        else:
            clauses.append(speaker.pick([t for t in w.SHORT_CLAUSES[slot] if slot_keys(t) <= have]))
    if clauses:
        joined = " and ".join(clauses) if len(clauses) < 3 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
        opening = (
            opener.replace("{wear}", _listed(wear, speaker))
            + speaker.pick([", ", ", ", ", " if joined.startswith("with") else " while "])
            + joined
        )
    else:
        opening = opener.replace("{wear}", _listed(wear, speaker))
    if chance(0.3):
        speaker.rng.shuffle(tails)
    return " ".join(speaker.fill(t) + "." for t in [opening, *tails]), opener


def _short(
    identity: Identity,
    view: View,
    visible: frozenset[str],
    rng: np.random.Generator,
    avoid: str,
    repainted: Mapping[str, str] | None,
) -> tuple[str, str]:
    tries = []
    for _ in range(8):  # 16 to 39 words are the 5th and 95th percentile of human captions
        tries.append(_short_once(Speaker(identity, view, visible, rng, True, repainted), avoid))
        if 16 <= len(tries[-1][0].split()) <= 39:
            return tries[-1]
    return max(tries, key=lambda made: len(made[0]))  # little can be seen: say what one can


def write_captions(
    identity: Identity,
    view: View,
    visible: frozenset[str],
    labels: frozenset[str],
    rng: np.random.Generator,
    repainted: Mapping[str, str] | None = None,
) -> Captions:
    """Two short captions and a long one for a picture of `identity` seen as `view`.

    visible: names of the Identity fields that the picture shows; labels: regions that have a box in it. Nothing else
    is named. The same arguments and generator state give the same captions; with `repainted` (see `Speaker`) they say
    other colours in the same words.
    """
    first, opener = _short(identity, view, visible, rng, "", repainted)
    second, _ = _short(identity, view, visible, rng, opener, repainted)
    sentences, named = _long(Speaker(identity, view, visible, rng, False, repainted), labels)
    return Captions([first, second], " ".join(text for text, _ in sentences), sentences, named)
