"""When a claim is true of an image: by brute force, one image at a time, and over all images at once."""

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataset_pvlg.synthetic.facts import FactTable, is_true, satisfying

FACTS = ("kind=bag", "kind=shoes", "color=red", "color=blue", "where=hand")
_facts = st.lists(st.sampled_from(FACTS), max_size=4, unique=True)
_images = st.lists(st.lists(_facts, max_size=4), min_size=1, max_size=5)
_groups = st.lists(st.lists(st.sampled_from(FACTS), max_size=2, unique=True), max_size=3)


def brute_force(groups, regions) -> bool:
    """Tries every way to give the groups different regions."""
    return any(
        all(set(group) <= set(region) for group, region in zip(groups, chosen, strict=True))
        for chosen in permutations(regions, len(groups))
    )


@given(_groups, _images)
def test_a_claim_needs_different_regions_for_its_groups(groups, images):
    table = FactTable(images)
    expected = [brute_force(groups, regions) for regions in images]
    assert [is_true(groups, regions) for regions in images] == expected
    assert table.images_where(groups).tolist() == expected
    for group in groups:
        found = table.regions_with(group)
        single = [n in satisfying(group, regions) for regions in images for n in range(len(regions))]
        np.testing.assert_array_equal(found, np.array(single, bool))


def test_one_region_cannot_be_two_things():
    bag = ["kind=bag", "color=red"]
    assert is_true([["color=red"]], [bag]) and not is_true([["color=red"], ["kind=bag"]], [bag])
    assert is_true([["color=red"], ["kind=bag"]], [bag, ["kind=shoes", "color=red"]]) and is_true([], [])
