"""Changed copies are found, similar images of other people are not, and the search equals comparing all pairs."""

import io
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.curation.near_duplicates import _near_hashes, duplicate_groups, signature
from dataset_pvlg.synthetic_v1.dataset import SyntheticConfig, rows


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Two images each of 8 drawn people."""
    config = SyntheticConfig(train_identities=8, validation_identities=0, test_identities=0, images_per_identity=2)
    return [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows("train", 0, 8, config)]


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def groups_of(images: list[Image.Image], **options) -> tuple[np.ndarray, np.ndarray]:
    signatures = [signature(image) for image in images]
    hashes = np.array([value for value, _ in signatures], np.uint64)
    return duplicate_groups(hashes, np.stack([thumb for _, thumb in signatures]), **options)


def linked(group: np.ndarray, pairs: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of images that are copies."""
    members = {leader: np.flatnonzero(group == leader) for leader in set(group)}
    found = {(int(a), int(b)) for m in members.values() for a in m for b in m if a < b}
    for left, right in pairs:
        found |= {(min(a, b), max(a, b)) for a in members[left].tolist() for b in members[right].tolist()}
    return found


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda image: image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS),
        lambda image: image.point(lambda value: min(255, int(value * 1.1) + 5)),
        lambda image: image.copy(),
    ],
    ids=["JPEG", "smaller", "brighter", "the same"],
)
def test_copies_are_found_and_other_people_are_not(images, change):
    group, pairs = groups_of([*images, *[change(image) for image in images]])
    found = linked(group, pairs)
    count = len(images)
    copies = {(n, n + count) for n in range(count)}
    assert len(found & copies) >= 0.9 * count
    people = [n % count // 2 for n in range(2 * count)]
    assert not [pair for pair in found if people[pair[0]] != people[pair[1]]]


def test_mirrored_image_is_no_copy(images):
    group, pairs = groups_of([images[0], images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert not linked(group, pairs)


def test_images_without_contrast_are_copies_of_nothing():
    images = [Image.new("RGB", (20, 50), colour) for colour in ("black", "white", "red", "black")]
    group, pairs = groups_of(images)
    assert group.tolist() == [0, 1, 2, 3] and not len(pairs)


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 8])
def test_search_finds_what_comparing_all_pairs_finds(distance):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 60, dtype=np.uint64)
    hashes = [base]
    for bits in range(1, 10):  # each base with so many bits flipped
        flips = [np.bitwise_or.reduce(np.uint64(1) << rng.permutation(64)[:bits].astype(np.uint64)) for _ in base]
        hashes.append(base ^ np.array(flips, np.uint64))
    hashes = np.concatenate(hashes)
    left, right = np.triu_indices(len(hashes), 1)
    differ = np.bitwise_count(hashes[left] ^ hashes[right])
    expected = {(int(a), int(b)) for a, b, d in zip(left, right, differ, strict=True) if 0 < d <= distance}
    found = {
        (min(p), max(p)) for a, b in _near_hashes(hashes, distance) for p in zip(a.tolist(), b.tolist(), strict=True)
    }
    assert found == expected
    assert distance < 2 or expected


def test_same_hash_with_other_pixels_is_no_copy():
    rng = np.random.default_rng(0)
    thumbs = rng.integers(0, 255, (4, 288), dtype=np.uint8)
    thumbs[3] = thumbs[1]
    group, pairs = duplicate_groups(np.full(4, 7, np.uint64), thumbs)
    assert group.tolist() == [0, 1, 2, 1] and not len(pairs)


def test_time_grows_about_as_the_rows_do():
    """All pairs of 20,000 would be 16 times those of 5,000, and 200 million."""
    rng = np.random.default_rng(0)
    seconds = []
    for count in (5_000, 20_000):
        hashes = rng.integers(0, 2**63, count, dtype=np.uint64)
        thumbs = rng.integers(0, 255, (count, 288), dtype=np.uint8)
        hashes[1], thumbs[1] = hashes[0] ^ np.uint64(5), thumbs[0]
        start = time.process_time()
        group, pairs = duplicate_groups(hashes, thumbs)
        seconds.append(time.process_time() - start)
        assert pairs.tolist() == [[0, 1]]
    assert seconds[1] < 10 * seconds[0]


def test_the_search_needs_a_few_numbers_per_row():
    """The grey images as float32 would be 1,152 bytes per row; half of the rows have a hash near that of another."""
    rng = np.random.default_rng(0)
    peaks = []
    for count in (4_000, 12_000):
        hashes = np.repeat(rng.integers(0, 2**63, count // 2, dtype=np.uint64), 2)
        hashes[1::4] ^= np.uint64(1)
        thumbs = rng.integers(0, 255, (count, 288), dtype=np.uint8)
        tracemalloc.start()
        group, pairs = duplicate_groups(hashes, thumbs)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert not len(pairs) and len(np.unique(group)) == count
    assert peaks[1] - peaks[0] < 150 * 8_000


def test_distance_out_of_range_is_refused():
    with pytest.raises(ValueError, match="distance is 9, not in 0 to 8 bits"):
        duplicate_groups(np.zeros(1, np.uint64), np.zeros((1, 288), np.uint8), distance=9)


def test_real_images(test_data):
    files = sorted((test_data / "pedestrians" / "imgs").glob("*.jpg"))
    images = [Image.open(file).convert("RGB") for file in files]
    group, pairs = groups_of([*images, *map(jpeg, images)])
    found = linked(group, pairs)
    people = [int(file.name[:4]) for file in files] * 2
    assert all(people[a] == people[b] for a, b in found)
    assert sum((n, n + len(files)) in found for n in range(len(files))) >= 0.95 * len(files)
