"""Queries with a fault, each with the plain query that every entry point must read."""

PLAIN = "A man's red jacket. He carries a bag of five files."

# name -> (as typed or pasted, as read)
QUERIES = {
    "half an emoji": (f"{PLAIN}\ud83d", PLAIN),
    "a byte that is not UTF-8": ("A man's\udcff red jacket. He carries a bag of five files.", PLAIN),
    "characters of no width": ("A man's red\u200b jacket. He carries a\u2060 bag of five files.\ufeff", PLAIN),
    "a byte order mark": (f"\ufeff{PLAIN}", PLAIN),
    "soft hyphens": ("A man's red jac\u00adket. He carries a bag of five files.", PLAIN),
    "HTML entities": ("A man&#39;s red jacket. He carries a bag of five files.", PLAIN),
    "curly quotes": ("A man\u2019s red jacket. He carries a bag of five files.", PLAIN),
    "ligatures": ("A man's red jacket. He carries a bag of five \ufb01les.", PLAIN),
    "full-width letters": ("\uff21 man's red jacket. He carries a bag of five files.", PLAIN),
}
# Queries without a word, which are refused in one line.
EMPTY = {
    "no text": "",
    "blanks": " \t\n",
    "only half an emoji": "\ud83d",
    "only characters of no width": "\u200b\ufeff",
}
