"""Find and correct faults in the text of captions: `clean_text`, `clean_row`.

The faults are those of real data sets. CUHK-PEDES has stray and double spaces, newlines, and sentences without a space
in between. RSTPReid has CJK characters, escapes and fragments of program code.
"""

import html
import re
import unicodedata
from typing import Any

BLANKS = "stray blanks or newlines"
GLUED = "sentences glued together"
INVISIBLE = "invisible or control characters"
ESCAPES = "escapes, entities or tags"
CODE = "program code"
CJK = "CJK or full-width characters"
PUNCTUATION = "doubled or misplaced punctuation"

_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffd]|[^\S\n\t ]")
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,80}>|<!--.{0,200}?-->")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\[ntr](?![a-z])|\\(?=[\"'])")
# Program code that was pasted into captions: statements, calls, assignments. A single word is never enough, because
# "print" and "import" occur in captions, as in "a print (floral)".
_CODE = re.compile(
    r"""\b(?:def|class|function|lambda)\s+\w+\s*\([^()]{0,80}\)\s*[:{]?   # def f(x):
      | \b(?:import|from)\s+(?:os|re|sys|json|numpy|torch|pandas|cv2|PIL)\b(?:\s+(?:as|import)\s+\w+)?
      | \b(?:for|while)\s+\w+\s+in\s+(?:range|len|enumerate)\s*\([^()]{0,80}\)\s*:?
      | \bif\s+__name__\s*==\s*["']__main__["']\s*:?
      | \b(?:var|let|const|int|float|self)\b[\s.]\s*\w+\s*=\s*[^\s;]{1,60};?   # var x = 1;
      | \breturn\s+(?:\w+\s*[;(\[]|[{\[(].{0,60}|None\b|True\b|False\b)\S{0,40}
      | \b[A-Za-z_][\w]*(?:\.[a-z_]\w*)+\([^()]{0,80}\);?          # os.path.join(a, b)
      | \b[A-Za-z_]\w*_\w*\s*=\s*[^\s=][^\s;]{0,60};?                # file_name = x
      | \b\w+\((?:["'][^"']{0,80}["']|\w+\s*=[^()]{0,60}|)\);?          # print("x"), open(), f(a=1)
      | \b\w+\[(?:["'][^"']{0,40}["']|\d+|:|-\d+)\](?:\s*=\s*\S{1,40})?  # row["id"]
      | \{[^{}]{0,200}\}
      | (?:==|!=|=>|->|\+=|&&|\|\||::|/\*|\*/)
    """,
    re.VERBOSE,
)
_CJK_MARKS = {"。": ". ", "．": ".", "｡": ". ", "，": ", ", "、": ", ", "！": "! ", "？": "? ", "；": "; ", "：": ": "}
_CJK_MARKS |= {"（": " (", "）": ") ", "【": " (", "】": ") ", "…": "...", "—": " - ", "－": "-", "～": "~"}
_CJK_MARKS |= dict.fromkeys("“”「」『』《》", '"') | dict.fromkeys("‘’", "'")
_CJK_TRANSLATION = str.maketrans(_CJK_MARKS)
_WIDE = re.compile(r"[\u3000-\u303f\uff00-\uffef]")
_CJK_LETTERS = re.compile(
    r"[\u1100-\u11ff\u2e80-\u2fff\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
)
_GLUED = re.compile(r"[a-z]\w[.!?](?:[A-Z][a-z]|(?:he|she|his|her|the|they|it)\b)")
_MARK_TWICE = re.compile(r"([,;:])(?:\s*[,;:])+")
_MARK_BEFORE_STOP = re.compile(r"[,;:]\s*([.!?])")
_STOP_TWICE = re.compile(r"(?<![.])\.\s?\.(?![.])")
_BLANK_BEFORE = re.compile(r"\s+([,;:.!?)])(?!\d)")
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]")


def is_cjk(text: str) -> bool:
    """Whether most letters of a text are Chinese, Japanese or Korean."""
    return 2 * sum(map(len, _CJK_LETTERS.findall(text))) > sum(map(str.isalpha, text))


def clean_text(text: str, cjk: bool | None = None) -> tuple[str, tuple[str, ...]]:
    """Remove the faults of a caption or sentence.

    Words are never changed: spelling, case and order stay. Text that an English tokenizer cannot read (CJK letters,
    code) is removed, but a caption in Chinese, Japanese or Korean keeps its letters and punctuation. Sentences without
    a space in between are reported but not separated, because `split_sentences` does that. Cleaning a clean text
    changes nothing.

    Args:
        text (`str`): a caption, or one of its sentences.
        cjk (`bool`, *optional*): whether the caption is Chinese, Japanese or Korean; by default, [`is_cjk`] decides.

    Returns:
        `tuple[str, tuple[str, ...]]`: the clean text, which may be empty, and the names of its faults.
    """
    cjk = is_cjk(text) if cjk is None else cjk
    visible = _INVISIBLE.sub("", _without_controls(text))
    faults = [BLANKS] if _squeezed(visible) != visible else []
    if not cjk and _GLUED.search(text):
        faults.append(GLUED)
    for _ in range(10):  # an escaped text may contain another escape
        before = text
        text = _clean_once(text, cjk, faults)
        if text == before:
            break
    return text, tuple(dict.fromkeys(faults))


def clean_row(row: dict[str, Any]) -> tuple[str, ...]:
    """Clean the `caption` of a row in place, and adjust its `sentences`. `captions` stay as they are.

    Sentences are cleaned one by one and joined by single spaces (clauses also by their comma), so that regions keep
    their sentences. A sentence that becomes empty is removed, and its regions get sentence -1. A caption that would
    become empty stays as it is.

    Args:
        row (`dict[str, Any]`): a P-VLG row.

    Returns:
        `tuple[str, ...]`: the names of the corrected faults, each once.
    """
    caption, sentences = row["caption"] or "", row["sentences"] or []
    if not sentences:
        return ()
    faults: list[str] = []
    cjk = is_cjk(caption)
    cleaned: list[dict[str, Any]] = []
    new_numbers: dict[int, int] = {}
    joined = ""
    for number, sentence in enumerate(sentences):
        text, sentence_faults = clean_text(sentence["text"], cjk)
        faults += [fault for fault in sentence_faults if fault != GLUED]
        gap = caption[sentences[number - 1]["end"] : sentence["start"]] if number else ""
        mark = gap.strip() if gap.strip() in (",", ";") else ""  # between clauses
        separator = mark + (" " if not cjk or gap else "")  # Chinese and Japanese have no space between sentences
        if number and not cjk and not gap:
            faults.append(GLUED)
        elif gap not in ("", " ", f"{mark} "):
            faults.append(BLANKS)
        if not any(map(str.isalpha, text)):
            continue
        new_numbers[number] = len(cleaned)
        joined += (separator if cleaned else "") + text
        cleaned.append({"text": text, "start": len(joined) - len(text), "end": len(joined)})
    if not cleaned:
        return ()
    row["caption"] = joined
    row["sentences"] = cleaned
    for region in row["regions"] or ():
        region["sentence"] = new_numbers.get(region["sentence"], -1)
    return tuple(dict.fromkeys(faults))


def _clean_once(text: str, cjk: bool, faults: list[str]) -> str:
    def record(fault: str, changed: str) -> str:
        if changed != text:
            faults.append(fault)
        return changed

    text = record(ESCAPES, _ESCAPE.sub(_unescaped, text))
    text = record(ESCAPES, _TAG.sub(" ", _ENTITY.sub(lambda match: html.unescape(match[0]).replace("\xa0", " "), text)))
    text = record(INVISIBLE, _INVISIBLE.sub(lambda match: " " if match[0].isspace() else "", _without_controls(text)))
    if cjk:
        return " ".join(text.split())
    text = record(CODE, _CODE.sub(" ", text))
    wide = text.translate(_CJK_TRANSLATION) if _WIDE.search(text) or _CJK_LETTERS.search(text) else text
    wide = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), wide)
    text = record(CJK, _CJK_LETTERS.sub(" ", wide))
    marks = _MARK_BEFORE_STOP.sub(r"\1", _MARK_TWICE.sub(r"\1", _EMPTY_BRACKETS.sub(" ", text)))
    marks = _STOP_TWICE.sub(".", marks).lstrip(" ,;:.!?\n\t")
    if marks != text.lstrip() and not {CODE, CJK, ESCAPES} & set(faults):  # removing those leaves punctuation
        faults.append(PUNCTUATION)
    return _squeezed(marks)


def _squeezed(text: str) -> str:
    return _BLANK_BEFORE.sub(r"\1", " ".join(text.split()))


def _unescaped(match: re.Match[str]) -> str:
    escape = match[0]
    if escape[1:2] in ("u", "x"):
        character = chr(int(escape[2:], 16))
        return character if character.isprintable() else " "
    return " " if len(escape) == 2 else ""


def _without_controls(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c for c in text if unicodedata.category(c) != "Cc" or c.isspace())
