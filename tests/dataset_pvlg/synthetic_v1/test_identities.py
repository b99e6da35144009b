"""Identities follow the priors, are unique, and include hard negatives."""

from collections import Counter
from dataclasses import asdict

import pytest

from dataset_pvlg.synthetic_v1.draw_canvas import COLOURS, DENIM, HAIR_COLOURS
from dataset_pvlg.synthetic_v1.identities import NEAR_DUPLICATE_EVERY, sample_identities


@pytest.fixture(scope="module")
def people():
    return sample_identities(0, 0, 1200)


def test_same_seed_and_start_give_the_same_people_and_others_do_not(people):
    assert sample_identities(0, 0, 50) == people[:50]
    assert sample_identities(1, 0, 50) != people[:50]
    assert sample_identities(0, 5000, 50) != people[:50]


def test_no_two_identities_are_equal(people):
    assert len(set(people)) == len(people)


def test_every_sixth_is_a_near_duplicate_of_the_one_before(people):
    def differing(n):
        before, after = asdict(people[n - 1]), asdict(people[n])
        return {name for name in before if before[name] != after[name]}

    duplicates = [differing(n) for n in range(1, len(people)) if n % NEAR_DUPLICATE_EVERY == NEAR_DUPLICATE_EVERY - 1]
    others = [differing(n) for n in range(1, len(people)) if n % NEAR_DUPLICATE_EVERY != NEAR_DUPLICATE_EVERY - 1]
    # a bag counts as one thing: kind, colour and side
    assert all(1 <= len({name.split("_")[0] for name in fields}) <= 2 for fields in duplicates)
    assert sum(map(len, others)) / len(others) > 6


def test_parts_of_a_person_agree_with_each_other(people):
    for person in people:
        assert (person.lower_type == "") == (person.lower_colour == "") == (person.upper_type == "dress")
        assert (person.bag_type == "") == (person.bag_colour == "")
        assert (person.bag_side != "") == (person.bag_type not in ("", "backpack"))
        assert (person.carried == "") == (person.carried_colour == "")
        assert (person.headwear == "none") == (person.headwear_colour == "")
        assert person.inner_colour == "" or person.upper_type in ("jacket", "coat")
        assert (person.sleeve == "none") <= (person.upper_type in ("tank top", "dress"))
        if person.gender == "man":
            assert (
                person.upper_type != "dress"
                and person.lower_type not in ("skirt", "leggings")
                and person.shoe_type != "heels"
            )


def test_an_inner_shirt_has_another_colour_than_its_jacket(people):
    drawn = [p for n, p in enumerate(people) if n % NEAR_DUPLICATE_EVERY != NEAR_DUPLICATE_EVERY - 1 and p.inner_colour]
    assert len(drawn) > 50 and all(p.inner_colour != p.upper_colour for p in drawn)  # a near-duplicate may not


def test_colours_follow_real_captions_and_can_be_drawn(people):
    upper, lower = Counter(p.upper_colour for p in people), Counter(p.lower_colour for p in people if p.lower_type)
    assert {name for name, _ in upper.most_common(2)} == {"white", "black"}
    assert lower.most_common(1)[0][0] == "black" and lower["black"] / lower.total() > 0.25
    shares = Counter(p.gender for p in people)
    assert 0.48 < shares["man"] / len(people) < 0.62
    assert 0.4 < sum(p.bag_type != "" for p in people) / len(people) < 0.6
    for p in people:
        worn = (p.upper_colour, p.inner_colour, p.shoe_colour, p.bag_colour, p.carried_colour, p.headwear_colour)
        assert {colour for colour in worn if colour} <= COLOURS.keys()
        assert p.hair_colour in HAIR_COLOURS
        if p.lower_type:
            assert p.lower_colour in (DENIM if p.lower_type == "jeans" else COLOURS)
