"""python -m dataset_pvlg.inspection.export_images --split test --out DIR [--dataset synthetic]

Writes a split's images as files, to be searched like anyone's own folder of images.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Image
from tqdm.auto import tqdm

from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows


def export_images(name: str, split: str, out: Path) -> int:
    """Writes each image's own bytes to `out/<person_id>_<image_id's last part>.jpg`.

    Args:
        name: `synthetic` or `synthetic-tiny`.
        split: train, validation or test.
        out: folder, made when absent; files of the same name are replaced one by one.

    Returns:
        How many were written.

    Raises:
        ValueError: another name or an unknown split.
    """
    if name not in SYNTHETIC_NAMES:  # every other set's images are files already, or forbidden to pass on
        raise ValueError(f"--dataset {name}: only {' and '.join(SYNTHETIC_NAMES)} are exported")
    data, _ = load_rows(name)
    if split not in data:
        raise ValueError(f"--split {split}: {name} has {', '.join(data)}")
    rows = data[split].select_columns(["image", "image_id", "person_id"]).cast_column("image", Image(decode=False))
    out.mkdir(parents=True, exist_ok=True)
    for row in tqdm(rows, desc="images", unit="image"):
        target = out / f"{row['person_id']:05d}_{row['image_id'].rsplit('/')[-1]}.jpg"
        part = target.with_suffix(".part")
        part.write_bytes(row["image"]["bytes"])
        os.replace(part, target)
    return len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="synthetic", help=", ".join(SYNTHETIC_NAMES))
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    try:
        count = export_images(args.dataset, args.split, args.out)
    except (ValueError, OSError) as error:
        print(f"dataset_pvlg.inspection.export_images: {error}", file=sys.stderr)
        return 2
    print(f"{count} images in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
