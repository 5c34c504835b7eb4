"""Prompts of text scorers: the template of the user's cell, filled in, within the length limit."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from oracle import Oracle, load
from small_checkpoints import TITLES

from rayrec.errors import ConfigError
from rayrec.instructions.templates import Templates, load_templates
from rayrec.reranking.text import InstructCheckpoint, RankingQuery

FORMS = {"pointwise": "T0", "pairwise": "T1", "listwise": "T3"}
SHORT: dict[str, dict[str, Any]] = {"pointwise": {}, "pairwise": {"top": 2}, "listwise": {"window": 3}}
CELLS = [
    RankingQuery(intention, history, tuple(TITLES[5:8]), profile=preference)
    for preference, intention, history in product(("", "likes Ur"), ("", "something red"), ((), tuple(TITLES[:2])))
]


def first_prompt(
    checkpoint: InstructCheckpoint, scorer: str, ask: RankingQuery, templates: Templates | None = None
) -> str:
    oracle = Oracle(checkpoint)
    load(scorer, oracle, checkpoint, templates, **SHORT[scorer]).score([ask])
    return oracle.prompts[0]


@pytest.mark.parametrize("scorer", FORMS)
@pytest.mark.parametrize("ask", CELLS, ids=range(len(CELLS)))
def test_prompt_is_the_first_template_of_its_cell_filled_in(
    qwen3: InstructCheckpoint, scorer: str, ask: RankingQuery
) -> None:
    template = load_templates().pick(
        preference="P2" if ask.profile else "P1" if ask.history else "P0",
        intention="I2" if ask.request else "I0",
        task_form=FORMS[scorer],
        history=bool(ask.history),
        key=0,
    )
    text, at = first_prompt(qwen3, scorer, ask), 0
    events = "".join(f"\n- {title}" for title in ask.history)
    values = {"preference": ask.profile, "intention": ask.request, "history": events}
    for words, field in template.parts:
        whole = (words.rstrip() if field in ("history", "candidates") else words) + values.get(field or "", "")
        assert whole in text[at:]
        at = text.index(whole, at) + len(whole)


@pytest.mark.parametrize("scorer", FORMS)
def test_own_templates_are_used(qwen3: InstructCheckpoint, tmp_path: Path, scorer: str) -> None:
    """A missing cell is an error."""
    last = {"pointwise": "{item}", "pairwise": "A {first} or B {second}", "listwise": "{candidates}"}[scorer]
    lead = {"P0": "Nobody.", "P1": "Trail: {history}", "P2": "Likes {preference}", "P2h": "{preference} {history}"}
    entries = [
        {
            "id": f"own-{who.lower()}-{intention.lower()}",
            "preference": who[:2],
            "intention": intention,
            "task_form": FORMS[scorer],
            "split": "train",
            "text": f"OWN WORDS. {words} {'{intention}' if intention == 'I2' else ''} {last}",
        }
        for (who, words), intention in product(lead.items(), ("I0", "I2"))
    ]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(entries), encoding="utf8")
    assert all("OWN WORDS." in first_prompt(qwen3, scorer, ask, load_templates(str(path))) for ask in CELLS)
    path.write_text(yaml.safe_dump(entries[:-1]), encoding="utf8")
    with pytest.raises(ConfigError, match=f"no template for P2 I2 {FORMS[scorer]}"):
        first_prompt(qwen3, scorer, CELLS[0], load_templates(str(path)))


def test_request_precedes_profile_and_neither_displaces_candidates(qwen3: InstructCheckpoint) -> None:
    long = RankingQuery("tea " * 200, (), ("item 1",), profile="milk " * 200)
    text = first_prompt(qwen3, "pointwise", long)
    assert "milk" not in text
    assert "About the user" not in text
    assert text.count("tea") > 40
    assert "Item: item 1" in text
    some = first_prompt(qwen3, "pointwise", RankingQuery("tea", (), ("item 1",), profile="milk " * 200))
    assert some.count("milk") > 20


def test_qwen3_reranker_prompt_matches_its_training_prompt(
    qwen3: InstructCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are in lower case, which the small checkpoint cannot give in one token."""
    monkeypatch.setattr(
        InstructCheckpoint, "answer_ids", lambda self, chat, answers: {a: k for k, a in enumerate(answers)}
    )
    oracle = Oracle(qwen3)
    load("pointwise", oracle, qwen3, prompt="qwen3_reranker").score(
        [RankingQuery("tea", (TITLES[0],), ("item 1",), profile="likes Ur"), RankingQuery("", (), ("item 2",))]
    )
    instruct = "<Instruct>: Given what a person asks for and what they took so far, find the items to recommend to them"
    assert oracle.prompts[0] == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        f"{instruct}\n<Query>: tea. likes Ur\nTaken so far, oldest first:\n- {TITLES[0]}\n<Document>: item 1"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert f"{instruct}\n<Query>: what they will want next\n<Document>: item 2<|im_end|>" in oracle.prompts[1]
