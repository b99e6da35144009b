"""Probabilities of search results: added with a calibration that applies, left out with a warning otherwise."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modeling_rogle import RogleModel
from modeling_rogle.display.text_output import verdict
from modeling_rogle.inference.loading import fingerprint
from modeling_rogle.search.calibration import Calibration, ImageSummary, Logistic
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import QUERY, make_images


def fitted_to(model: RogleModel, **changes) -> Calibration:
    logistic = Logistic(("excess",), (0.0,), (1.0,), (2.0,), 0.0)
    parts = {"best": logistic, "other": logistic, "present": logistic, "threshold": 0.999999}
    about = {"false_alarm_rate": 0.1, "gallery_sizes": (10, 40), "fitted_on": "a test", "images": None, "report": {}}
    return Calibration(**{"fingerprint": fingerprint(model), "local_weight": 0.5, **parts, **about, **changes})


@pytest.fixture(scope="module")
def indexed_24(tools, tmp_path_factory) -> Path:
    """An index large enough for a calibration."""
    root = tmp_path_factory.mktemp("gallery-24")
    Gallery.build(make_images(root / "images", 24), *tools, root / "index", progress=False)
    return root / "index"


def test_results_have_probabilities_with_a_calibration_of_this_model_and_weight(indexed_24, tools, tmp_path):
    index = Path(shutil.copytree(indexed_24, tmp_path / "index"))
    assert Gallery.open(index, *tools).search(QUERY)[0].probability is None
    fitted = fitted_to(tools[0])
    fitted.save(index)
    gallery = Gallery.open(index, *tools)
    matches = gallery.search(QUERY, local_weight=0.5)
    background = gallery.encode_gallery() @ gallery.encode_query(QUERY).embed
    scores = np.array([match.score for match in matches])
    assert [match.probability for match in matches] == pytest.approx(fitted.probability(scores, background).tolist())
    assert matches.no_match is True and matches.false_alarm_rate == 0.1
    # A narrow filter keeps the distribution of scores; the number of searched images is smaller.
    matches = gallery.search(QUERY, local_weight=0.5, where="width < 25")
    scores = np.array([match.score for match in matches])
    assert [match.probability for match in matches] == pytest.approx(fitted.probability(scores, background, 5).tolist())
    with pytest.warns(UserWarning, match="calibration.json: fitted with local weight 0.5, not 0.4; no probabilities"):
        assert gallery.search(QUERY, local_weight=0.4).no_match is None
    with pytest.warns(UserWarning, match="reads the best 10 results, only 3 were reranked; no probabilities"):
        assert gallery.search(QUERY, local_weight=0.5, reranked=3).no_match is None
    matches = gallery.search(QUERY, top_k=20, local_weight=0.5, reranked=12)
    assert [match.probability is None for match in matches] == [False] * 12 + [True] * 8
    replace(fitted, fingerprint="another").save(index)
    with pytest.warns(UserWarning, match="calibration.json: fitted to another model"):
        assert Gallery.open(index, *tools).search(QUERY, local_weight=0.5)[0].probability is None


def test_a_calibration_is_not_used_outside_what_it_was_fitted_on(indexed_24, copied, tools, tmp_path):
    index = Path(shutil.copytree(indexed_24, tmp_path / "large"))
    fitted_to(tools[0], gallery_sizes=(2000, 3000)).save(index)
    gallery = Gallery.open(index, *tools)
    file = gallery.folder / "04.png"
    for query in ("", QUERY):
        assert gallery.search(query, image=file, local_weight=0.5).no_match is None
    with pytest.warns(UserWarning, match="fitted on galleries of 2000 to 3000 images, 24 are searched"):
        assert gallery.search(QUERY, local_weight=0.5).no_match is not None
    fitted_to(tools[0]).save(copied)  # ten images
    with pytest.warns(UserWarning, match="needs a gallery of 20 images, this one has 10; no probabilities"):
        matches = Gallery.open(copied, *tools).search(QUERY, local_weight=0.5)
    assert matches.no_match is None and matches[0].probability is None


def test_images_unlike_those_of_the_fit_get_no_verdict(indexed_24, tools, tmp_path):
    index = Path(shutil.copytree(indexed_24, tmp_path / "index"))
    gallery = Gallery.open(index, *tools)
    summary = ImageSummary.of(gallery.encode_gallery())
    measured = {"false_alarms": 0.15, "false_alarm_interval": [0.1, 0.2]}
    fitted_to(tools[0], images=summary, report=measured).save(index)
    matches = Gallery.open(index, *tools).search(QUERY, local_weight=0.5)
    assert matches.no_match is True and matches[0].probability is not None
    assert (matches.false_alarm_rate, matches.false_alarm_interval) == (0.15, (0.1, 0.2))
    assert "measured false-alarm rate 15 %, 95 % interval 10 to 20 %" in verdict(matches)
    fitted_to(tools[0], images=replace(summary, mean=tuple(-x for x in summary.mean))).save(index)
    gallery = Gallery.open(index, *tools)
    for _ in range(2):
        with pytest.warns(UserWarning, match="not calibrated for these images, but for those of a test; no prob"):
            matches = gallery.search(QUERY, local_weight=0.5)
        assert matches.no_match is None and matches[0].probability is None
    fitted_to(tools[0], images=ImageSummary((0.1,), 3)).save(index)
    with pytest.raises(ValueError, match="field 'images.mean' does not hold 32 numbers"):
        Gallery.open(index, *tools).search(QUERY, local_weight=0.5)
    fitted_to(tools[0]).save(index)
    with pytest.warns(UserWarning, match="does not say which images it was fitted on"):
        Gallery.open(index, *tools).search(QUERY, local_weight=0.5)
