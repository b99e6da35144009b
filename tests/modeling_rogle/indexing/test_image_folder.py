"""Which files of a folder are listed as images, and why others are skipped."""

import os

from modeling_rogle.image_io import printable_path
from modeling_rogle.indexing.image_folder import image_files
from tests.helpers.image_files import write_noise


def test_images_are_found_in_sub_folders_in_sorted_order_and_other_files_counted(tmp_path):
    for name in ("b/2.jpg", "a.png", "b/1.JPEG"):
        write_noise(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "b" / "metadata.csv").write_text("metadata")
    assert image_files(tmp_path) == (["a.png", "b/1.JPEG", "b/2.jpg"], [], 1)


def test_an_index_inside_the_folder_is_left_out(tmp_path):
    write_noise(tmp_path / "a.jpg")
    for name in ("index.json", "index.json.building"):
        write_noise(tmp_path / name.replace(".", "-") / "pictures" / "copy.jpg")
        (tmp_path / name.replace(".", "-") / name).write_text('{"format": "rogle-gallery"}')
    write_noise(tmp_path / "web" / "b.jpg")
    (tmp_path / "web" / "index.json").write_text('{"title": "another program"}')
    assert image_files(tmp_path) == (["a.jpg", "web/b.jpg"], [], 1)


def test_links_are_followed_inside_the_folder_only(tmp_path):
    root = tmp_path / "root"
    write_noise(root / "a.jpg")
    write_noise(tmp_path / "outside" / "secret.jpg")
    (root / "in.jpg").symlink_to("a.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (root / "outdir").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    (root / "broken.jpg").symlink_to("nowhere.jpg")
    files, skipped, ignored = image_files(root)
    assert files == ["a.jpg", "in.jpg"]
    assert {item.path: item.reason for item in skipped} == {
        "out.jpg": "symbolic link out of the folder",
        "outdir": "symbolic link out of the folder",
        "broken.jpg": "broken symbolic link",
    }
    assert ignored == 0


def test_files_that_are_empty_too_large_or_not_regular_are_skipped_without_opening_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would block
    (tmp_path / "empty.png").touch()
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(300 * 2**20)
    files, skipped, _ = image_files(tmp_path)
    assert files == []
    assert [item.reason for item in skipped] == [
        "empty file",
        "314572800 bytes, over the limit of 268435456",
        "not a regular file",
    ]


def test_a_name_that_is_not_utf8_is_skipped_and_printable(tmp_path):
    name = os.fsencode(tmp_path) + b"/bad\xff\n.jpg"
    with open(name, "wb") as file:
        file.write(b"x")
    _, skipped, _ = image_files(tmp_path)
    assert skipped[0].reason == "file name is not UTF-8"
    assert printable_path(skipped[0].path) == "bad\\xff\\n.jpg"
