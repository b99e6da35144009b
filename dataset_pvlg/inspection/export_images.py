"""`rogle data export`: write the images of a synthetic split as files, for example to search them as a folder."""

import argparse
import os
from pathlib import Path

from datasets import Image
from tqdm.auto import tqdm

from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows


def export_images(name: str, split: str, out: Path) -> int:
    """Writes the encoded bytes of each image to `out/<person_id>_<last part of the image_id>.jpg`.

    Args:
        name: `synthetic` or `synthetic-tiny`. The images of other data sets are files already, or may not be copied.
        split: train, validation or test.
        out: folder, created if needed. Existing files of the same name are replaced.

    Returns:
        The number of written images.

    Raises:
        ValueError: the data set is not synthetic, or the split does not exist.
    """
    if name not in SYNTHETIC_NAMES:
        raise ValueError(f"--dataset {name}: only {' and '.join(SYNTHETIC_NAMES)} can be exported")
    splits, _ = load_rows(name)
    if split not in splits:
        raise ValueError(f"--split {split}: {name} has {', '.join(splits)}")
    rows = splits[split].select_columns(["image", "image_id", "person_id"]).cast_column("image", Image(decode=False))
    out.mkdir(parents=True, exist_ok=True)
    for row in tqdm(rows, desc="images", unit="image"):
        target = out / f"{row['person_id']:05d}_{row['image_id'].rsplit('/')[-1]}.jpg"
        part = target.with_suffix(".part")
        part.write_bytes(row["image"]["bytes"])
        os.replace(part, target)
    return len(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rogle data export`."""
    parser.add_argument(
        "--dataset", default="synthetic", metavar="NAME", help=f"{' or '.join(SYNTHETIC_NAMES)} (default: synthetic)"
    )
    parser.add_argument("--split", default="test", help="split to export (default: test)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write the images to")


def run(args: argparse.Namespace) -> None:
    """Exports the images.

    Raises:
        ValueError, OSError: bad arguments, or `--out` cannot be written.
    """
    count = export_images(args.dataset, args.split, args.out)
    print(f"{count} images in {args.out}")


__all__ = ["add_arguments", "export_images", "run"]
