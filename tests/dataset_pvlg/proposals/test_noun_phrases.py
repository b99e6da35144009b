import pytest

from dataset_pvlg.proposals.noun_phrases import noun_phrases


@pytest.mark.parametrize(
    ("sentence", "phrases"),
    [
        ("The woman has long straight hair that is brown at the roots.", ["long straight hair", "roots"]),
        ("She is wearing a loose light grey knitted cardigan.", ["loose light grey knitted cardigan"]),
        ("A young asian woman carries a black back-pack over her left shoulder.", ["black back-pack", "left shoulder"]),
        ("He wears a long, grey coat, blue jeans and white running shoes.",
         ["long grey coat", "blue jeans", "white running shoes"]),
        ("The shoes are black.", ["shoes"]),
        ("White panels covered with small figures, fitting loosely", ["white panels", "small figures"]),
        ("a man with a shopping bag, talking on his phone", ["shopping bag", "phone"]),
        ("A black umbrella and a Black Umbrella", ["black umbrella"]),
        ("The picture shows a man walking away.", []),
        ("He is tall.", []),
        ("", []),
        ("... 42 !", []),
    ],
)  # fmt: skip
def test_each_phrase_is_found_once_without_persons_and_lone_colours(sentence, phrases):
    assert noun_phrases(sentence) == phrases


def test_a_long_phrase_keeps_its_last_words():
    assert noun_phrases("big red shiny new soft leather hand-painted shoulder bag") == [
        "new soft leather hand-painted shoulder bag"
    ]
