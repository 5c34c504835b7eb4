"""The wanted and unwanted clauses of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.instructions.negation import Clause, clauses


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("something to laugh at", ["something to laugh at"], []),
        ("spaceships, but nothing scary please", ["spaceships"], ["scary please"]),
        ("I don't want to cry tonight", [], ["want to cry tonight"]),
        ("anything but a love story", [], ["a love story"]),
        ("tired of cops and robbers. Cowboys?", ["cowboys"], ["cops and robbers"]),
        ("nothing but ghosts", ["ghosts"], []),
        ("can't wait to be scared", ["to be scared"], []),
        ("nothing beats a good scare", ["a good scare"], []),
        ("can't get enough of robots", ["robots"], []),
        ("fantasy isn't my thing at all", [], ["fantasy"]),
        ("a comedy please, horror is not my cup of tea", ["a comedy please"], ["horror"]),
        ("I like comedies but horror puts me off", ["i like comedies"], ["horror"]),
        ("keep aliens away from me", [], ["aliens"]),
        ("westerns? no thanks", [], ["westerns"]),
        ("sports films bore me to death, none please", [], ["sports films"]),
        ("enough with the dragons", [], ["the dragons"]),
        ("not for me but for my son, something with dinosaurs", ["something with dinosaurs"], []),
        ("non-stop shootouts", ["nonstop shootouts"], []),
        ("horror I can't stand", [], ["horror"]),
        ("not too sad a comedy", ["a comedy"], ["too sad"]),
        ("nothing too scary or violent, robots", ["robots"], ["too scary or violent"]),
        ("I'd rather see robots than weddings", ["i ' d see robots"], ["weddings"]),
        ("please leave dragons out", [], ["dragons"]),
        ("cartoons? absolutely not", [], ["cartoons"]),
        ("I couldn't live without robots", ["i could robots"], []),
        ("don't leave out the robots", ["do the robots"], []),
        ("isn't there anything with robots?", ["anything with robots"], []),
        ("anything goes, westerns aside", ["anything goes"], ["westerns"]),
        ("westerns have never been my thing", [], ["westerns"]),
        ("robots over weddings any day", ["robots"], ["weddings"]),
        ("as little singing as possible", [], ["singing"]),
        ("one thing I don't want: westerns", [], ["westerns"]),
        ("not keen on cowboys or weddings", [], ["keen on cowboys or weddings"]),
        ("gore-free ghosts", [], ["gore ghosts"]),
        ("remove westerns from my list", [], ["westerns"]),
        ("a film that isn't boring", ["a film that is"], ["boring"]),
        ("I wouldn't say no to ghosts", ["i ghosts"], []),
        ("a story my kids won't find silly", ["a story my kids silly"], []),
        ("less than two hours of robots", ["less than two hours of robots"], []),
        ("Hi! Could you show me something?", [], []),
        ("", [], []),
    ],
)
def test_clauses(text: str, wanted: list[str], unwanted: list[str]) -> None:
    found = clauses(text)
    assert [clause.text for clause in found if not clause.unwanted] == wanted
    assert [clause.text for clause in found if clause.unwanted] == unwanted


def test_a_negation_ends_after_ten_words() -> None:
    text = "no " + " ".join(f"lamp{n}" for n in range(12))
    assert [clause.unwanted for clause in clauses(text)] == [True, False]


@given(st.text(max_size=60))
def test_any_text_splits_the_same_way_each_time(text: str) -> None:
    found = clauses(text)
    assert all(isinstance(clause, Clause) and clause.text.strip() for clause in found)
    assert clauses(text) == found
