"""The words of captions: nouns, colours, and the sentence templates of two grammars.

In a template, `{np}` is a noun phrase ("a red striped scarf"), `{the}` the same thing with a definite article and fewer
words ("the scarf"), `{he}`, `{his}` and `{him}` the person, and `{s}` the ending of a verb of a singular subject.
"""

from __future__ import annotations

# Words of a kind or type: the first list is used everywhere, the second in the test split only.
NOUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "t-shirt": (("t-shirt", "tee"), ("short-sleeved jersey",)),
    "tank top": (("tank top", "sleeveless top"), ("singlet",)),
    "shirt": (("shirt", "button-up shirt"), ("dress shirt",)),
    "sweater": (("sweater", "pullover"), ("jumper",)),
    "hoodie": (("hoodie", "hooded sweatshirt"), ("hooded top",)),
    "jacket": (("jacket",), ("windbreaker",)),
    "coat": (("coat", "long coat"), ("overcoat",)),
    "dress": (("dress",), ("frock",)),
    "trousers": (("trousers", "pants", "long pants"), ("slacks",)),
    "shorts": (("shorts",), ("bermudas",)),
    "skirt": (("skirt",), ("skirt",)),
    "shoes": (("shoes", "sneakers"), ("trainers",)),
    "boots": (("boots", "high boots"), ("wellingtons",)),
    "backpack": (("backpack", "rucksack"), ("knapsack",)),
    "shoulder bag": (("shoulder bag", "messenger bag"), ("satchel",)),
    "handbag": (("handbag", "tote"), ("carryall",)),
    "cap": (("cap", "baseball cap"), ("peaked cap",)),
    "beanie": (("beanie", "knit cap"), ("bobble hat",)),
    "sun hat": (("sun hat", "wide-brimmed hat"), ("broad-brimmed hat",)),
    "scarf": (("scarf",), ("neckerchief",)),
    "umbrella": (("umbrella",), ("brolly",)),
    "suitcase": (("suitcase", "rolling suitcase"), ("trolley case",)),
    "pushchair": (("pushchair", "stroller"), ("buggy",)),
    "bicycle": (("bicycle", "bike"), ("pushbike",)),
    "dog": (("dog",), ("hound",)),
    "top": (("top",), ("upper garment",)),
    "bottom": (("garment on the legs",), ("legwear",)),
    "footwear": (("footwear",), ("footgear",)),
    "bag": (("bag",), ("carrier",)),
    "hat": (("hat",), ("headgear",)),
    "hair": (("hair",), ("hair",)),
}
COLOURS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "black": (("black",), ("jet-black",)),
    "white": (("white",), ("snow-white",)),
    "grey": (("grey", "gray"), ("ash-colored",)),
    "blue": (("blue",), ("azure",)),
    "red": (("red", "bright red"), ("crimson",)),
    "green": (("green",), ("emerald",)),
    "yellow": (("yellow",), ("lemon-colored",)),
    "orange": (("orange",), ("tangerine",)),
    "pink": (("pink",), ("rose-colored",)),
    "purple": (("purple", "violet"), ("plum-colored",)),
    "brown": (("brown",), ("chestnut",)),
}
HAIR_COLOURS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "black": (("black",), ("jet-black",)),
    "brown": (("brown",), ("chestnut",)),
    "blonde": (("blonde", "blond"), ("fair",)),
    "grey": (("grey", "gray"), ("silver",)),
    "red": (("red",), ("ginger",)),
}
PATTERNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plain": (("plain", "solid"), ("unpatterned",)),
    "striped": (("striped", "stripy"), ("banded",)),
    "checked": (("checked", "checkered"), ("chequerboard",)),
    "dotted": (("dotted", "polka-dot"), ("spotty",)),
}
PATTERN_NOUNS = {"striped": "stripes", "checked": "checks", "dotted": "dots"}
HAIR_STYLES = {"short": "short {c} hair", "long": "long {c} hair", "bun": "{c} hair in a bun"}
SLEEVES = {"short": "short sleeves", "long": "long sleeves", "none": "no sleeves"}
PLURAL = frozenset(
    {
        "trousers",
        "pants",
        "long pants",
        "slacks",
        "shorts",
        "bermudas",
        "shoes",
        "sneakers",
        "trainers",
        "boots",
        "high boots",
        "wellingtons",
    }
)
UNCOUNTED = frozenset({"hair", "footwear", "legwear", "headgear"})
UNSEEN_RATE = 0.05  # share of the words of test captions that training captions never use, where such a word exists

# Templates by grammar and by place. "any" says nothing about the place.
SINGLE: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "any": (
            "One can see {np}.",
            "There {is} {np} in the image.",
            "{Np} stand{s} out.",
            "{Np} {is} visible.",
            "To {his} look belong{s} {np}.",
            "{He} ha{s_have} {np}.",
            "{Np} catch{es} the eye.",
        ),
        "worn": ("{He} wear{s_he} {np}.", "{He} {is_he} dressed in {np}.", "{He} ha{s_have} {np} on."),
        "neck": ("{He} wear{s_he} {np} around the neck.", "{Np} {is} wrapped around {his} neck."),
        "hand": ("{He} hold{s_he} {np} with one hand.", "In {his} hand there {is} {np}.", "{His} hand is on {np}."),
        "arm": ("{Np} hang{s} over {his} arm.", "{He} carr{ies_he} {np} over one arm."),
        "elbow": ("{Np} hang{s} from the bend of {his} arm.", "{He} carr{ies_he} {np} on the bent arm."),
        "waist": ("{Np} {is} tied around {his} waist.", "{He} ha{s_have} {np} tied around the waist."),
        "back": ("{He} carr{ies_he} {np} on the back.", "On {his} back there {is} {np}."),
        "chest": ("{He} wear{s_he} {np} on the chest.", "{Np} {is} strapped to {his} chest."),
        "shoulder": ("{Np} hang{s} from {his} shoulder.", "{He} carr{ies_he} {np} over one shoulder."),
        "across": ("{Np} hang{s} on a strap across {his} body.", "{He} carr{ies_he} {np} across the body."),
        "overhead": ("{He} hold{s_he} {np} overhead.", "{Np} {is} open above {his} head."),
        "ground": ("{Np} {is} on the ground.", "On the ground there {is} {np}."),
        "bag": ("{Np} {is} tied to {his} bag.", "{He} ha{s_have} {np} hanging from the bag."),
        "ridden": ("{He} ride{s_he} {np}.", "{He} {is_he} riding {np}."),
        "left": ("{Np} {is} on the left side of the person in the image.", "To the left of {him} there {is} {np}."),
        "right": ("{Np} {is} on the right side of the person in the image.", "To the right of {him} there {is} {np}."),
    },
    {
        "any": (
            "Visible here {is} {np}.",
            "The camera has captured {np}.",
            "Note {np}.",
            "The scene includes {np}.",
            "What draws attention {is} {np}.",
            "{He} appear{s_he} with {np}.",
        ),
        "worn": ("{His} outfit includes {np}.", "{Np} {is} what {he} ha{s_have} put on."),
        "neck": ("Around {his} neck goes {np}.",),
        "hand": ("{His} fingers are closed around {np}.", "{Np} {is} held by hand."),
        "arm": ("Draped over {his} arm {is} {np}.",),
        "elbow": ("From the crook of {his} arm dangles {np}.",),
        "waist": ("Knotted around {his} waist {is} {np}.",),
        "back": ("Strapped to {his} back {is} {np}.",),
        "chest": ("Carried in front, on the chest, {is} {np}.",),
        "shoulder": ("Slung over one shoulder {is} {np}.",),
        "across": ("Worn crosswise over {his} body {is} {np}.",),
        "overhead": ("Opened over {his} head {is} {np}.",),
        "ground": ("Set down near {his} feet {is} {np}.", "The floor carries {np} next to {him}."),
        "bag": ("Fastened to {his} bag {is} {np}.",),
        "ridden": ("{He} sit{s_he} on {np}.",),
        "left": ("Left of {him}, as the viewer sees it, {is} {np}.",),
        "right": ("Right of {him}, as the viewer sees it, {is} {np}.",),
    },
)
MANY: tuple[tuple[str, ...], ...] = (
    (
        "{He} ha{s_have} {list}.",
        "One can see {list}.",
        "{List} are visible together.",
        "The image shows {list}.",
        "{List} belong to this person.",
    ),
    ("Seen together are {list}.", "{His} things are {list}.", "Put side by side, there are {list}."),
)
SAME: tuple[tuple[str, ...], ...] = (
    (
        "{The_a} ha{s_have_a} the same main color as {the_b}.",
        "In the main color, {the_a} match{es_a} {the_b}.",
        "Both {the_a} and {the_b} are mainly {colour}.",
        "{The_a} and {the_b} share one main color.",
    ),
    ("By main color, {the_a} equal{s_a} {the_b}.", "{Colour} is the main color of {the_a} and of {the_b}."),
)
DARKER: tuple[tuple[str, ...], ...] = (
    (
        "{The_a} {is_a} darker than {the_b}.",
        "{The_b} {is_b} lighter than {the_a}.",
        "{Np_a} {is_a} darker than {the_b}.",
    ),
    ("Compared with {the_b}, {the_a} look{s_a} dark.", "{The_b} {is_b} the brighter one next to {the_a}."),
)
WHOLE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "standing": (("{He} {is_he} standing.",), ("{He} keep{s_he} still, upright.",)),
    "walking": (("{He} {is_he} walking.", "{He} walk{s_he} along."), ("{He} {is_he} taking steps.",)),
    "sitting": (("{He} {is_he} sitting.", "{He} sit{s_he} on a bench."), ("{He} ha{s_have} taken a seat.",)),
    "crouching": (("{He} {is_he} crouching.", "{He} squat{s_he} down."), ("{He} {is_he} bent low on the knees.",)),
    "cycling": (("{He} {is_he} cycling.",), ("{He} {is_he} on wheels.",)),
    "front": (("{He} face{s_he} the camera.", "{He} {is_he} seen from the front."), ("The front of {him} is shown.",)),
    "back": (
        ("{He} {is_he} seen from behind.", "{His} back is turned to the camera."),
        ("The view is from the rear.",),
    ),
    "side": (("{He} {is_he} seen from the side.", "{He} {is_he} shown in profile."), ("The view is a profile.",)),
    "other": (
        ("Another person is partly in the image.", "Someone else stands at the edge."),
        ("A second person is cut off by the border.",),
    ),
}
SHORT: tuple[tuple[str, ...], ...] = (
    (
        "A {noun} with {list}.",
        "The {noun} has {list}.",
        "This {noun} can be recognized by {list}.",
        "A {noun}, seen with {list}.",
    ),
    ("Look for a {noun} and {list}.", "{List}: that is this {noun}."),
)
PEOPLE = {
    "man": ("man", "He", "his", "him"),
    "woman": ("woman", "She", "her", "her"),
    "": ("person", "The person", "the person's", "the person"),
}
