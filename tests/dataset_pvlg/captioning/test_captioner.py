import json

import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from dataset_pvlg.captioning.captioner import Captioner, CaptionOptions, KeyedSampling
from tests.helpers.tiny_captioner import SENTENCES, TEMPLATE, save_tiny_captioner

IMAGES = [Image.new("RGB", (20 + 7 * i, 60), (50 * i, 120, 30)) for i in range(4)]
FACTS = ["A man in red.", "", "She <image> has [a] bag.He walks", "A man in red."]
IDS = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_captioner(tmp_path_factory.mktemp("vlm") / "tiny")


@pytest.fixture(scope="module")
def drawing(folder):
    return Captioner(str(folder), options=CaptionOptions(max_new_tokens=4, temperature=1.0))


def test_a_model_from_a_folder_answers_for_every_image_and_marks_complete_answers(drawing):
    answers = drawing.describe(IMAGES, FACTS, IDS)
    assert len(answers) == 4
    for text, ended in answers:
        assert text and all(sentence + "." in SENTENCES for sentence in text.rstrip(".").split(". "))
        assert ended or len(text.split(". ")) <= 4
    assert {ended for _, ended in answers} == {True, False}


def test_samples_depend_on_seed_and_image_and_not_on_the_batch(drawing, folder):
    together = drawing.describe(IMAGES, FACTS, IDS)
    alone = [drawing.describe([image], [f], [i])[0] for image, f, i in zip(IMAGES, FACTS, IDS, strict=True)]
    assert together == alone == drawing.describe(IMAGES, FACTS, IDS)
    assert drawing.describe(IMAGES, FACTS, IDS[::-1]) != together
    other = Captioner(str(folder), options=CaptionOptions(max_new_tokens=4, temperature=1.0, seed=1))
    assert other.describe(IMAGES, FACTS, IDS) != together


def test_without_temperature_the_most_likely_tokens_are_generated(folder):
    greedy = Captioner(str(folder), options=CaptionOptions(max_new_tokens=3))
    first = greedy.describe(IMAGES, FACTS, IDS)
    assert first == greedy.describe(IMAGES, FACTS, IDS[::-1])
    content = [{"type": "image", "image": IMAGES[1]}, {"type": "text", "text": greedy.fill_prompt(FACTS[1])}]
    inputs = greedy.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"return_tensors": "pt"},
    )
    with torch.no_grad():
        likeliest = int(greedy.model(**inputs).logits[0, -1].argmax())
    assert first[1][0].startswith(greedy.processor.decode([likeliest]))


def test_keyed_sampling_follows_the_softmax():
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    draw = KeyedSampling(2.0, 0, [str(i) for i in range(6000)])
    logits = (2.0 * probabilities.log()).repeat(6000, 1)
    shares = torch.bincount(draw(None, logits).argmax(1), minlength=3) / 6000
    torch.testing.assert_close(shares, probabilities, atol=0.02, rtol=0)


def test_facts_reach_the_prompt_without_control_words(tmp_path, drawing, folder):
    file = tmp_path / "ask.txt"
    file.write_text("Say it again:\n{facts}\n", encoding="utf-8")
    own = Captioner(str(folder), file, CaptionOptions(max_new_tokens=1))
    assert own.prompt == "Say it again:\n{facts}"
    assert own.settings["prompt_sha256"] != drawing.settings["prompt_sha256"]
    assert own.fill_prompt("She <image> has [a] bag.He walks") == "Say it again:\n- She image has a bag.\n- He walks"
    assert own.fill_prompt("") == "Say it again:\n- (nothing)"
    assert own.fill_prompt("He walks. " * 100).count("He walks.") == 12
    assert own.fill_prompt("{facts} He runs.").count("facts") == 1


def test_settings_name_no_path_of_the_machine(drawing, folder):
    text = json.dumps(drawing.settings)
    assert drawing.settings["captioner"] == drawing.name == folder.name
    assert str(folder.parent) not in text


@pytest.mark.parametrize(
    ("content", "words"), [(b"no place", "holds no {facts}"), (None, "No such file"), (b"\xff", "")]
)
def test_a_prompt_that_cannot_be_used_is_one_line_that_names_it(tmp_path, folder, content, words):
    file = tmp_path / "ask.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="ask.txt") as caught:
        Captioner(str(folder), file)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "name"), [({"max_new_tokens": 0}, "max_new_tokens"), ({"temperature": float("nan")}, "temperature")]
)
def test_options_out_of_range_are_named(fields, name):
    with pytest.raises(ValueError, match=name):
        CaptionOptions(**fields)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is here")
@pytest.mark.parametrize(
    ("kind", "processor", "images", "videos"),
    [
        ("qwen3_vl", "Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor"),
        ("llava_onevision", "LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor"),
    ],
)
def test_a_model_that_needs_torchvision_is_one_line(tmp_path, drawing, kind, processor, images, videos):
    drawing.processor.tokenizer.save_pretrained(tmp_path)
    files = {
        "config": {"model_type": kind},
        "processor_config": {"processor_class": processor},
        "preprocessor_config": {"processor_class": processor, "image_processor_type": images},
        "video_preprocessor_config": {"processor_class": processor, "video_processor_type": videos},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(ValueError, match="needs torchvision, which is not installed") as caught:
        Captioner(str(tmp_path))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_an_unsuitable_captioner_is_one_line(tmp_path, folder, tiny_checkpoint):
    silent = save_tiny_captioner(tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_text('{"model_type": "clip"}')
    for name, words in (
        (silent, "no chat template"),
        (clip, ""),
        (tmp_path / "none", "no such folder"),
        (tiny_checkpoint, ""),
    ):
        with pytest.raises(ValueError, match="captioner ") as caught:
            Captioner(str(name))
        assert words in str(caught.value) and "\n" not in str(caught.value)
