"""The schema of a P-VLG row. Every reader, builder and writer takes its types from here."""

from datasets import Features, Image, List, Value

PAPER = "https://arxiv.org/abs/2606.01825"  # whose idea the data set implements
CITATION = """@misc{rogle,
  title  = {Rogle: an independent implementation of ROGLE for text-based person search},
  author = {{The Rogle developers}},
  year   = {2026},
  note   = {Implements the abstract of arXiv:2606.01825}
}"""
SPLITS = ("train", "validation", "test")

OPTIONAL = ("image", "claims")  # columns that a file may lack; regions may lack their field `attributes`
REGION_LABELS = ("head", "upper body", "lower body", "feet", "bag", "carried item")

FEATURES = Features(
    {
        "image": Image(),  # null in an annotations-only data set
        "path": Value("string"),  # relative to the image root of the source
        "sha256": Value("string"),  # of the bytes of the source file
        "image_id": Value("string"),
        "width": Value("int32"),  # of the stored image, pixels
        "height": Value("int32"),
        "person_id": Value("int64"),  # unique over sources and splits
        "source": Value("string"),
        "camera": Value("string"),
        "parent": Value("string"),  # image_id of the original of a generated image
        "captions": List(Value("string")),  # captions of the source, unchanged
        "caption": Value("string"),  # the long caption
        "caption_origin": Value("string"),  # human | human_joined | vlm:<name> | synthetic[:second-grammar] | none
        # start and end are character offsets into `caption`: caption[start:end] == text
        "sentences": List({"text": Value("string"), "start": Value("int32"), "end": Value("int32")}),
        "regions": List(
            {
                "bbox": List(Value("float32"), length=4),  # x, y, w, h in pixels of the stored image (COCO)
                "label": Value("string"),
                # Index into `sentences`, -1 for none. May repeat: a sentence about two regions has an entry for each,
                # and a region with two sentences is stored twice.
                "sentence": Value("int32"),
                "score": Value("float32"),  # match score
                "reliability": Value("float32"),  # in [0, 1]
                "origin": Value("string"),  # human | rsm | synthetic
                "attributes": List(Value("string")),  # visible facts, as "color=red"; null unless synthetic
            }
        ),
        # For each sentence one group of facts for each region that it describes; null unless synthetic. A sentence is
        # true of an image if different regions satisfy its groups, that is, have all facts of the group as attributes.
        "claims": List(List(List(Value("string")))),
    }
)
