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
        ("The man is walking away.", []),
        ("He is tall.", []),
        ("", []),
        ("... 42 !", []),
    ],
)  # fmt: skip
def test_things_are_named_once_and_persons_and_colours_are_none(sentence, phrases):
    assert noun_phrases(sentence) == phrases


def test_a_run_without_function_words_keeps_its_end():
    assert noun_phrases("big red shiny new soft leather hand-painted shoulder bag") == [
        "new soft leather hand-painted shoulder bag"
    ]
