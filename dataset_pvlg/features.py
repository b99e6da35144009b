"""The P-VLG row, once. Every reader, builder and writer takes its types from here."""

from datasets import Features, Image, List, Value

SPLITS = ("train", "validation", "test")

REGION_LABELS = ("head", "upper body", "lower body", "feet", "bag", "carried item")

FEATURES = Features(
    {
        "image": Image(),  # null in an annotations-only release
        "path": Value("string"),
        "sha256": Value("string"),  # of the source file's bytes
        "image_id": Value("string"),
        "width": Value("int32"),  # of the stored image, pixels
        "height": Value("int32"),
        "person_id": Value("int64"),  # unique over sources and splits
        "source": Value("string"),
        "camera": Value("string"),
        "parent": Value("string"),  # image_id of the image a generated row was made from
        "captions": List(Value("string")),  # the source's own, untouched
        "caption": Value("string"),  # the long one
        "caption_origin": Value("string"),  # human | human_joined | vlm:<name> | synthetic | none
        # start and end are character offsets into `caption`: caption[start:end] == text
        "sentences": List({"text": Value("string"), "start": Value("int32"), "end": Value("int32")}),
        "regions": List(
            {
                "bbox": List(Value("float32"), length=4),  # x, y, w, h in pixels of the stored image (COCO)
                "label": Value("string"),
                "sentence": Value("int32"),  # index into `sentences`, -1 = none
                "score": Value("float32"),  # match score
                "reliability": Value("float32"),  # in [0, 1]
                "origin": Value("string"),  # human | rsm | synthetic
            }
        ),
    }
)
