"""The words of the caption grammar: synonyms and sentence templates, without logic.

A template is used only if every {slot} in it can be filled with visible facts, so templates need no fallback. The
phrases that fill the slots are written by `caption_writer.CaptionWriter`. {he}, {his} and {him} agree with the person,
and "a " before a vowel becomes "an " when a sentence is complete. Frequencies follow counts over 22,220 short human
captions of pedestrians (texts of CUHK-PEDES, CUHK-SYSU and PRW).

Captions of version v1 contain these strings, so none of them may change without a new `GENERATOR_VERSION`.
"""

# value of a field -> [(word, weight)], the most common word first.
COLOUR_WORDS: dict[str, list[tuple[str, float]]] = {
    "grey": [("grey", 0.5), ("gray", 0.5)],
    "purple": [("purple", 0.9), ("violet", 0.1)],
}
# "dark" replaces a colour in 5 % (upper body) to 10 % (lower body) of short captions; only these colours are dark.
DARK_COLOURS = frozenset({"black", "brown"})
HAIR_COLOUR_WORDS: dict[str, list[tuple[str, float]]] = {
    "grey": [("grey", 0.5), ("gray", 0.5)],
    "blonde": [("blonde", 0.75), ("blond", 0.25)],
    "red": [("red", 0.7), ("ginger", 0.3)],
}

TYPE_WORDS: dict[str, list[tuple[str, float]]] = {
    "t-shirt": [("t-shirt", 0.7), ("tee shirt", 0.2), ("t shirt", 0.1)],
    "shirt": [("shirt", 0.75), ("button-up shirt", 0.25)],
    "jacket": [("jacket", 1.0)],
    "coat": [("coat", 0.8), ("overcoat", 0.2)],
    "sweater": [("sweater", 0.75), ("pullover", 0.25)],
    "hoodie": [("hoodie", 0.7), ("hooded sweatshirt", 0.3)],
    "tank top": [("tank top", 1.0)],
    "dress": [("dress", 1.0)],
    "pants": [("pants", 0.68), ("trousers", 0.24), ("slacks", 0.08)],
    "jeans": [("jeans", 0.85), ("denim jeans", 0.15)],
    "shorts": [("shorts", 1.0)],
    "skirt": [("skirt", 1.0)],
    "leggings": [("leggings", 0.8), ("tights", 0.2)],
    "shoes": [("shoes", 1.0)],
    "sneakers": [("sneakers", 0.6), ("tennis shoes", 0.28), ("running shoes", 0.12)],
    "boots": [("boots", 1.0)],
    "sandals": [("sandals", 1.0)],
    "heels": [("heels", 0.5), ("high heels", 0.5)],
    "backpack": [("backpack", 0.85), ("back pack", 0.08), ("rucksack", 0.07)],
    "shoulder bag": [("shoulder bag", 0.8), ("messenger bag", 0.2)],
    "handbag": [("handbag", 0.6), ("purse", 0.4)],
    "suitcase": [("suitcase", 0.8), ("piece of luggage", 0.2)],
    "cap": [("cap", 0.7), ("baseball cap", 0.3)],
    "hat": [("hat", 0.6), ("brimmed hat", 0.4)],
    "beanie": [("beanie", 0.7), ("knit beanie", 0.3)],
    "glasses": [("glasses", 0.7), ("eyeglasses", 0.3)],
    "sunglasses": [("sunglasses", 1.0)],
    "umbrella": [("umbrella", 1.0)],
    "phone": [("phone", 0.5), ("cell phone", 0.35), ("mobile phone", 0.15)],
    "bottle": [("bottle", 0.5), ("water bottle", 0.5)],
    "book": [("book", 1.0)],
}
# Short captions are vaguer: "shirt" for most tops, "bag" for most bags, "shoes" for most footwear.
SHORT_TYPE_WORDS: dict[str, list[tuple[str, float]]] = {
    "t-shirt": [("shirt", 0.6), ("t-shirt", 0.28), ("tee shirt", 0.06), ("top", 0.06)],
    "shirt": [("shirt", 0.9), ("button-up shirt", 0.05), ("top", 0.05)],
    "tank top": [("tank top", 0.6), ("top", 0.4)],
    "sweater": [("sweater", 0.7), ("top", 0.15), ("pullover", 0.15)],
    "sneakers": [("sneakers", 0.4), ("shoes", 0.4), ("tennis shoes", 0.2)],
    "boots": [("boots", 0.8), ("shoes", 0.2)],
    "heels": [("heels", 0.6), ("high heels", 0.2), ("shoes", 0.2)],
    "backpack": [("backpack", 0.8), ("bag", 0.15), ("rucksack", 0.05)],
    "shoulder bag": [("shoulder bag", 0.3), ("bag", 0.6), ("messenger bag", 0.1)],
    "handbag": [("handbag", 0.15), ("purse", 0.35), ("bag", 0.5)],
}

HAIR_STYLE_WORDS: dict[str, list[str]] = {  # after "has": {c} is the colour
    "short": ["short {c} hair", "{c} hair cut short", "short cropped {c} hair"],
    "long": ["long {c} hair", "long, loose {c} hair", "{c} hair worn long"],
    "ponytail": ["{c} hair tied in a ponytail", "{c} hair in a ponytail", "{c} hair pulled back into a ponytail"],
    "bun": ["{c} hair tied in a bun", "{c} hair in a bun", "{c} hair pinned up in a bun"],
}
HAIR_IS_WORDS: dict[str, list[str]] = {  # after "hair is"
    "short": ["short and {c}", "{c} and cut short", "{c} and quite short"],
    "long": ["long and {c}", "{c} and hangs down long", "{c} and worn long"],
    "ponytail": ["{c} and tied back in a ponytail", "{c} and gathered into a ponytail"],
    "bun": ["{c} and tied up in a bun", "{c} and gathered into a bun"],
}
SLEEVE_WORDS = {"short": "short-sleeved", "long": "long-sleeved", "none": "sleeveless"}
SLEEVE_NOUNS = {"short": "short sleeves", "long": "long sleeves"}
PATTERN_WORDS: dict[str, list[str]] = {
    "plain": ["plain"],
    "striped": ["striped", "stripy"],
    "plaid": ["plaid", "checkered"],
    "dotted": ["polka-dot", "dotted"],
}
PATTERN_NOUNS: dict[str, list[str]] = {
    "plain": ["a plain surface", "one plain colour all over", "a plain look"],
    "striped": ["a striped pattern", "stripes running across it", "clear stripes"],
    "plaid": ["a plaid pattern", "a checkered pattern", "a pattern of crossing checks"],
    "dotted": ["a pattern of dots", "polka dots all over", "a dotted pattern"],
    "logo": ["a logo on the chest", "a printed logo on the front", "a graphic on the front"],
}
INNER = ["shirt", "top"]
COVERS_LEGS = frozenset({"pants", "jeans", "leggings"})
LOWER_FIT: dict[str, list[str]] = {
    "pants": ["reach all the way down", "are long", "cover the whole length of the legs"],
    "jeans": ["are made of denim", "are long and made of denim", "reach all the way down"],
    "shorts": ["leave the lower legs bare", "end above the calves"],
    "skirt": ["leaves the lower legs bare", "hangs loosely around the legs"],
    "leggings": ["fit tightly around the legs", "are tight and reach all the way down"],
}
BUILD_WORDS: dict[str, list[str]] = {
    "slim": ["a slim build", "a slender figure", "a thin build"],
    "average": ["an average build", "a medium build"],
    "heavy": ["a heavy build", "a stocky build", "a heavyset figure"],
}
BAG_POSITIONS: dict[str, list[str]] = {
    "backpack": ["on {his} back", "over both shoulders"],
    "shoulder bag": ["on a shoulder strap", "on a strap at {his} side"],
    "handbag": ["in {his} hand", "at {his} side"],
    "suitcase": ["by {his} side", "at the end of {his} arm"],
}
BAG_POSITIONS_WITH_SIDE: dict[str, list[str]] = {
    "shoulder bag": ["at {his} {side} side", "hanging on {his} {side} side"],
    "handbag": ["in {his} {side} hand", "on {his} {side} side"],
    "suitcase": ["in {his} {side} hand", "on {his} {side} side"],
}

# ------------------------------------------------------------------------------------------- person and scene
NOUNS: dict[str, list[tuple[str, float]]] = {
    "man": [("man", 0.91), ("male", 0.04), ("guy", 0.03), ("gentleman", 0.02)],
    "woman": [("woman", 0.86), ("lady", 0.09), ("female", 0.05)],
    "": [("person", 0.8), ("pedestrian", 0.2)],
}
WALKING_STRIDE = 0.35  # fraction of a full step; a person with a smaller one is standing
WALKING = ["is walking", "is walking", "is walking", "is striding", "is stepping forward"]
STANDING = ["is standing", "is standing still"]
WALKING_DIRECTIONS = {
    "front": ["toward the camera", "towards the camera", "straight toward the viewer"],
    "back": ["away from the camera", "away from the viewer"],
    "left": ["past the camera, seen from the side", "across the picture"],
    "right": ["past the camera, seen from the side", "across the picture"],
}
STANDING_DIRECTIONS = {
    "front": ["with {his} face to the camera", "facing the camera"],
    "back": ["with {his} back to the camera", "turned away from the camera"],
    "left": ["with {his} side to the camera", "turned to the side"],
    "right": ["with {his} side to the camera", "turned to the side"],
}
VIEWS = {
    "front": ["is seen from the front", "is facing the camera"],
    "back": ["is seen from behind", "is seen from the back"],
    "left": ["is seen from the side", "is shown in profile"],
    "right": ["is seen from the side", "is shown in profile"],
}
# Phrases after a verb of walking, phrases after a verb of standing, and nouns.
SCENES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "street": (["on a street", "along a road"], ["on a street", "on a road"], ["a street", "a road"]),
    "grass": (["on the grass", "across a lawn"], ["on the grass", "on a lawn"], ["grass", "a lawn"]),
    "mall": (["in a mall", "through a mall"], ["in a mall", "in a shopping mall"], ["the inside of a mall"]),
    "wall": (
        ["along a wall", "past a brick wall"],
        ["in front of a wall", "by a brick wall"],
        ["a wall", "a brick wall"],
    ),
    "indoor": (["indoors", "inside a building"], ["indoors", "inside a building"], ["the inside of a building"]),
}

# ------------------------------------------------------------------------------------------- long captions
LONG: dict[str, list[str]] = {
    "head": [
        "{he} has {hair}.",
        "On {his} head one can see {hair}.",
        "At the top of the picture, {his} hair is {hair_is}.",
        "{his} hair is {hair_is}.",
        "{he} has {hair} and wears {glasses}.",
        "{he} is wearing {glasses}, and {his} hair is {hair_is}.",
        "{his} hair is {hair_is}, and {he} looks through {glasses}.",
        "{he} wears {a_hat} over {hair}.",
        "Under {a_hat}, {his} hair is {hair_is}.",
        "{he} has {hair} under {a_hat} and wears {glasses}.",
        "{he} has {a_hat} on {his} head and {glasses} on {his} face.",
        "{his} head is covered with {a_hat}.",
        "{he} is wearing {a_hat} on {his} head.",
        "A {hat} sits on {his} head.",
        "{his} face is partly hidden by {glasses}.",
        "{he} is wearing {glasses} on {his} face.",
        "{he} has {a_bald} with no hair on it.",
        "{his} head is {bald_is}, without any hair on top.",
        "{he} has {a_bald} and wears {glasses}.",
        "{he} wears {glasses}, and {his} head is {bald_is}.",
        "{he} wears {a_hat} on {his} {bald_is} head.",
        "{he} has {hair_only} on {his} head.",
    ],
    "upper body": [
        "{he} is wearing {a_upper_full} on {his} upper body.",
        "{he} wears {a_upper_full} that covers {his} upper body.",
        "{his} upper body is dressed in {a_upper_full}.",
        "On top, {he} has chosen {a_upper_full}.",
        "{he} has {a_upper_full} on.",
        "The top half of {his} body is dressed in {a_upper_full}.",
        "{he} wears {a_upper} with {sleeves} and {pattern}.",
        "The {upper} that {he} wears has {sleeves} and {pattern}.",
        "{his} {upper} has {pattern}, and its sleeves are {sleeve_is}.",
        "{his} {upper} is {sleeve_word} and has {pattern}.",
        "{he} wears {a_upper}, which shows {pattern}.",
        "{he} wears {a_upper} with {sleeves} that can be seen along {his} arms.",
        "The {upper_type} on {his} upper body is {upper_colour}.",
        "The {upper_type} has {pattern}.",
        "The sleeves of the {upper_type} are {sleeve_is}.",
        "It is a {sleeve_word} {upper_type} with {pattern}.",
        "Looking closer, the {upper_type} has {sleeves} and {pattern}.",
        "{he} wears {a_upper_full} open over {inner}.",
        "Under {his} {upper} one can see {inner}.",
        "The {upper_type} is left open in front, showing {inner} beneath it.",
        "Beneath the open {upper_type} {he} has {inner} on.",
        "The upper part of {his} {sleeve_word} dress is {dress_colour} with {pattern}.",
        "Above the waist, {he} wears the {dress_colour} bodice of a {sleeve_word} dress with {pattern}.",
        "The top of {his} {upper} has {pattern} and {sleeves}.",
    ],
    "lower body": [
        "{he} is wearing {a_lower} on {his} legs.",
        "{he} wears {a_lower} on the lower half of {his} body.",
        "{his} legs are covered by {a_lower_cover}.",
        "Below the waist, {he} has {a_lower} on.",
        "{his} lower body is dressed in {a_lower}.",
        "{he} has {a_lower} on below the waist.",
        "The {lower_type} {he} wears {lower_be} {lower_colour}.",
        "{his} {lower_type} {lower_be} {lower_colour}.",
        "The lower body is covered by {a_lower}.",
        "{his} {lower} {lower_fit}.",
        "{he} wears {a_lower}, and {lower_they} {lower_fit}.",
        "Below the waist, {his} {dress_colour} dress hangs loosely.",
        "The lower half of {his} dress is {dress_colour} and hangs loosely.",
        "The lower part of the dress is {dress_colour} and moves around {his} legs.",
    ],
    "feet": [
        "{he} wears {shoes} on {his} feet.",
        "On {his} feet {he} has {shoes}.",
        "{his} feet are in {shoes}.",
        "{he} is wearing {a_pair_shoes} on {his} feet.",
        "{he} has {a_pair_shoes} on {his} feet.",
        "At the bottom of the picture one can see {his} {shoes}.",
        "The {shoe_type} on {his} feet are {shoe_colour}.",
        "{his} footwear is {a_pair_shoes}.",
        "For footwear {he} has chosen {shoes}.",
        "The outfit ends in {shoes} on {his} feet.",
    ],
    "bag": [
        "{he} is carrying {a_bag} {bag_place}.",
        "{he} carries {a_bag} {bag_place}.",
        "{he} has {a_bag} with {him}, {bag_place}.",
        "There is {a_bag} {bag_place}.",
        "One can see {a_bag} {bag_place}.",
        "The {bag_type} {bag_place} is {bag_colour}.",
        "A {bag} can be seen {bag_place}.",
        "{he} also has {a_bag} {bag_place}.",
    ],
    "carried item": [
        "{he} is holding {a_carried}.",
        "{he} holds {a_carried} in {his} hand.",
        "In {his} hand {he} has {a_carried}.",
        "There is {a_carried} in {his} hand.",
        "{he} is carrying {a_carried} in one hand.",
        "One hand is holding {a_carried}.",
        "The {carried_type} in {his} hand is {carried_colour}.",
    ],
    "whole": [
        "{he} has {build} and {gait} {view}.",
        "{he} {gait} {place}.",
        "{he} {gait} {place} and {seen}.",
        "{he} {seen} as {he} {gait} {place}.",
        "{he} is a {noun} with {build}.",
        "{he} has {build} and {seen}.",
        "The picture shows a {noun} with {build} who {gait} {place}.",
        "This is a {noun} with {build} who {seen}.",
        "A {noun} with {build} {gait} {view}.",
        "A {noun} {gait} {place}.",
        "The background is {backdrop}, and {he} {gait} {view}.",
    ],
}

# Sentences of the verbose style. They repeat facts, so that some captions exceed 248 tokens.
VERBOSE_WHOLE = [
    "Taken as a whole, the outfit is made of {a_upper}, {a_lower} and {shoes}.",
    "All in all, the picture shows a {noun} dressed in {a_upper} together with {a_lower}.",
    "Anyone looking for this {noun} should look for {a_upper} above {a_lower}.",
    "From head to toe one can see {hair}, {a_upper} and {shoes}.",
    "The easiest things to notice about {him} are {a_upper} and {shoes}.",
    "To sum up, {he} is a {noun} in {a_upper}, and {he} {gait} {place}.",
    "Besides the clothes, one can say that {he} has {build} and that {he} {seen}.",
    "The whole figure of the {noun} is in the picture, and {he} {gait} {view}.",
    "The scene around {him} is simple, with {backdrop} behind the {noun} in {a_upper}.",
    "Against {backdrop}, the things that stand out most are {a_upper} and {shoes}.",
    "If one had to describe {him} in a few words, it would be a {noun} with {a_upper} and {a_lower}.",
    "The colours that stay in mind are those of {his} {upper} and of {his} {lower}.",
]

SECOND_ONLY = frozenset(  # sentences that refer to the one before them
    t for region in LONG.values() for t in region if t.startswith(("It is", "Looking closer", "The sleeves of"))
)

# ------------------------------------------------------------------------------------------- short captions
# The opener names the clothes ("{wear}"); the other slots follow as clauses or as sentences of their own.
SHORT_OPENERS: list[tuple[str, float]] = [
    ("The {noun} is wearing {wear}", 24),
    ("A {noun} wearing {wear}", 17),
    ("The {noun} wears {wear}", 8),
    ("A {noun} is wearing {wear}", 6),
    ("{he} is wearing {wear}", 4),
    ("This {noun} is wearing {wear}", 5),
    ("A {noun} in {wear}", 6),
    ("The {noun} is dressed in {wear}", 6),
    ("The {noun} {gait} and is wearing {wear}", 6),
    ("A {noun} who {gait} in {wear}", 3),
    ("The {noun} has {hair} and is wearing {wear}", 12),
    ("A {noun} with {hair} wearing {wear}", 12),
    ("A {noun} with {hair} is wearing {wear}", 6),
    ("The {hair_adj} haired {noun} is wearing {wear}", 8),
    ("The {noun} with {hair} wears {wear}", 6),
]
# (slot, the phrase that it needs, the share of captions that fill it if the phrase exists)
SHORT_RATES: list[tuple[str, str, float]] = [
    ("upper", "a_upper_short", 0.96),
    ("lower", "a_lower", 0.92),
    ("shoes", "shoes", 0.64),
    ("bag", "a_bag", 0.8),
    ("hair", "hair", 0.3),
    ("head", "glasses", 0.3),
    ("head", "a_hat", 0.55),
    ("carried", "a_carried", 0.85),
    ("pose", "gait", 0.2),
]
SHORT_SENTENCES = [0.59, 0.88, 0.965]  # cumulative target shares of 1, 2 and 3 sentences; the rest have 4
SHORT_ORDER = ("hair", "head", "bag", "carried", "pose")
SHORT_LOWER = [
    "{he} wears {lowers}",
    "{he} is also wearing {lowers}",
    "{he} has on {lowers}",
    "The {noun} has {lowers}",
]
SHORT_TAILS: dict[str, list[str]] = {  # sentences of their own
    "hair": ["{he} has {hair}", "The {noun} has {hair}", "{his} hair is {hair_is}"],
    "head": ["{he} is wearing {glasses}", "{he} wears {glasses}", "{he} is wearing {a_hat}", "{he} wears {a_hat}"],
    "bag": ["{he} is carrying {a_bag}", "{he} carries {a_bag} {bag_place}", "{he} has {a_bag} {bag_place}"],
    "carried": ["{he} is holding {a_carried}", "{he} holds {a_carried} in {his} hand", "{he} is carrying {a_carried}"],
    "pose": ["{he} {gait} {place}", "{he} {gait} {view}", "The {noun} {seen}", "{he} {gait}"],
}
SHORT_CLAUSES: dict[str, list[str]] = {  # after a comma or "while"
    "hair": ["with {hair}"],
    "bag": ["carrying {a_bag}", "carrying {a_bag} {bag_place}", "with {a_bag} {bag_place}"],
    "carried": ["holding {a_carried}", "holding {a_carried} in {his} hand", "carrying {a_carried}"],
    "pose": ["{going} {place}", "{going} {view}"],
}
