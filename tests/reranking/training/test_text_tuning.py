"""Tuning a text reranker's adapter, on tiny random checkpoints of three architectures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_checkpoints import FAMILIES, TITLES, build, build_adapter
from transformers import AutoConfig, AutoModelForCausalLM

from rayrec.config import TextTuning
from rayrec.errors import ConfigError, DataError
from rayrec.instructions.templates import load_templates
from rayrec.numerics.collectives import Worker
from rayrec.reranking.engines.engine import EngineSettings, Failure
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.text import TEXT_SCORERS, InstructCheckpoint, RankingQuery, tuned_adapter
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.reranking.training import text_tuner
from rayrec.reranking.training.text_examples import PackedPrompts, UserCandidates, packed_example, user_candidates
from rayrec.reranking.training.text_tuner import TextTuningSpec, tune_adapter_on_worker
from rayrec.reranking.training.text_tuning_loop import TextTuningLoop, answer_logits, answer_loss
from rayrec.storage import Storage, hf_checkpoint, layout, published_folder
from rayrec.storage.tables import write_arrow

METHODS = ("pointwise", "pairwise", "listwise")
NOW, UNTIL = 1_000, 2_000
RIGHT = [title for title in TITLES if "Rome" in title]  # what every user consumes
WRONG = [title for title in TITLES if "Rome" not in title]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: build(root, family) for family in FAMILIES}


def prompting(folder: Path, method: str = "pointwise") -> Any:
    checkpoint = InstructCheckpoint.open(str(folder))
    given = {"window": 4} if method == "listwise" else {}
    settings = TEXT_SCORERS[method].settings_class(prompt_tokens=600, item_tokens=16, events=3, **given)
    return text_tuner.prompting_scorer(checkpoint, method, settings, load_templates())


def users(count: int = 24) -> list[UserCandidates]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        candidates = (*rng.choice(RIGHT, 1).tolist(), *rng.choice(WRONG, 3, replace=False).tolist())
        query = RankingQuery("", ("The Tea of Ur", "The Cup of Oslo"), candidates)
        found.append(UserCandidates(f"u{number}", query, np.array([True, False, False, False])))
    return found


def tuning(**changes: Any) -> TextTuning:
    return TextTuning.model_validate({"epochs": 4, "learning_rate": 1e-2, "negatives": 3, **changes})


def loop(folder: Path, settings: TextTuning, method: str = "pointwise") -> TextTuningLoop:
    model = text_tuner.model_with_adapter(str(folder), settings)
    return TextTuningLoop(model, prompting(folder, method), users(), settings, Worker())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_prompts_give_the_logits_of_each_prompt_alone(
    folders: dict[str, Path], family: str, method: str
) -> None:
    """Endings do not see each other, also where some layers see a window only."""
    folder = folders[family]
    causal = hf_checkpoint.load_causal_lm(str(folder), "test").eval()
    scorer = prompting(folder, method)
    examples = [packed_example(scorer, user, 3, 0, 0) for user in users(3)]
    with torch.no_grad():
        together = answer_logits(causal, examples, scorer.ids).log_softmax(1).numpy()
        prompts = [[*each.shared, *ending] for each in examples for ending in each.endings]
        alone = [causal(torch.tensor([prompt])).logits[0, -1, list(scorer.ids)].log_softmax(0) for prompt in prompts]
    np.testing.assert_allclose(together, torch.stack(alone).numpy(), atol=1e-4)


def test_only_the_answers_are_targets(folders: dict[str, Path]) -> None:
    """The loss is -log P(right answers among all answers) at the last token of each prompt, and nothing else."""
    causal, scorer = hf_checkpoint.load_causal_lm(str(folders["qwen3"]), "test").eval(), prompting(folders["qwen3"])
    example = packed_example(scorer, users(1)[0], 3, 0, 0)
    with torch.no_grad():
        probability = answer_logits(causal, [example], scorer.ids).softmax(1)
        right = [probability[row, list(places)].sum().log() for row, places in enumerate(example.answers)]
        expected = -sum(float(log) * weight for log, weight in zip(right, example.weights, strict=True))
        assert float(answer_loss(causal, [example], scorer.ids)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_what_was_consumed(folders: dict[str, Path], method: str) -> None:
    """Read from the prompt itself: the last item, the item after A or B, the item after the letter."""
    scorer = prompting(folders["qwen3"], method)
    decode = scorer._tokenizer._full.decode
    for user in users(8):
        example = packed_example(scorer, user, 3, 0, 0)
        for ending, answers in zip(example.endings, example.answers, strict=True):
            text = decode([*example.shared, *ending])
            named = sorted((text.rindex(title), title) for title in user.query.candidates if title in text)
            if method == "pointwise":
                assert (answers[0] < len(scorer.ids) // 2) == (named[-1][1] in RIGHT)
            elif method == "pairwise":
                assert named[-2:][answers[0]][1] in RIGHT
            else:
                assert named[-4:][answers[0]][1] in RIGHT


@pytest.mark.parametrize("method", ["pointwise", "pairwise"])
def test_loss_falls_where_the_answer_can_be_read(folders: dict[str, Path], method: str) -> None:
    state = loop(folders["qwen3"], tuning(epochs=6), method)
    state.run(lambda _: None)
    first, *_, last = [row["loss"] for row in state.progress.curve]
    assert last < 0.75 * first


def test_killed_tuning_resumes_to_the_weights_of_an_uninterrupted_one(folders: dict[str, Path]) -> None:
    settings, saved = tuning(epochs=5), list[bytes]()
    whole = loop(folders["llama"], settings)
    whole.run(lambda state: saved.append(state.checkpoint()))
    assert len(saved) == 2
    resumed = loop(folders["llama"], settings)
    resumed.resume(saved[0])
    resumed.run(lambda _: None)
    for name, parameter in whole.causal.named_parameters():
        assert torch.equal(parameter, dict(resumed.causal.named_parameters())[name]), name


def table(now: int = NOW) -> pa.Table:
    """Two users; the first has an event at `now`, which nothing may show."""
    columns = {
        "user_id": ["a", "b"],
        "variant": ["own", "own"],
        "item": pa.array([[0, 1, 2], [3]], pa.list_(pa.int32())),
        "ts": pa.array([[now - 9, now - 5, now], [now - 1]], pa.list_(pa.int64())),
        "candidate": pa.array([[4, 5, 6], [4, 5, 7]], pa.list_(pa.int32())),
        "score.own": pa.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], pa.list_(pa.float32())),
        "consumed": pa.array([[0, 1, 0], [0, 0, 1]], pa.list_(pa.int8())),
    }
    return pa.table(columns)


def test_nothing_at_or_after_the_cutoff_is_in_an_example(folders: dict[str, Path]) -> None:
    texts = tuple(f"item {code}" for code in range(8))
    reranker = TextReranker(prompting(folders["qwen3"]), texts, texts, "", depth=3)
    first, second = user_candidates(table(), reranker, NOW)
    assert first.query.history == ("item 0", "item 1")
    assert second.query.history == ("item 3",)
    assert first.query.candidates == ("item 4", "item 5", "item 6")
    assert first.consumed.tolist() == [False, True, False]


def test_negatives_are_candidates_that_would_be_scored(folders: dict[str, Path]) -> None:
    texts = tuple(f"item {code}" for code in range(8))
    reranker = TextReranker(prompting(folders["qwen3"]), texts, texts, "", depth=2)
    (only,) = user_candidates(table(), reranker, NOW)  # the second user consumed nothing within the depth
    assert only.user == "a"
    assert only.query.candidates == ("item 4", "item 5")


def spec(root: Path, folder: Path, **changes: Any) -> TextTuningSpec:
    storage = Storage(str(root))
    write_arrow(storage, "examples.arrow", table())
    given: dict[str, Any] = {
        "examples": ("examples.arrow",),
        "variant": "own",
        "path": layout.model_folder(layout.TEXT_ADAPTER_KIND, "test"),
        "checkpoint": str(folder),
        "method": "pointwise",
        "scorer_settings": TEXT_SCORERS["pointwise"].settings_class(prompt_tokens=600),
        "templates": load_templates(),
        "texts": tuple(TITLES[:8]),
        "default_request": "",
        "depth": 3,
        "settings": tuning(),
        "now": NOW,
        "until": UNTIL,
    }
    return TextTuningSpec(root=storage.root, **{**given, **changes})


def run(given: TextTuningSpec) -> Iterator[dict[str, float]]:
    rows: list[dict[str, float]] = []
    tune_adapter_on_worker(given, Worker(), lambda row, steps: rows.append(dict(row)))
    yield from rows


def test_published_adapter_changes_the_scores_and_is_not_tuned_again(tmp_path: Path, folders: dict[str, Path]) -> None:
    given = spec(tmp_path, folders["qwen3"])
    assert list(run(given))
    storage = Storage(given.root)
    assert not storage.exists(layout.training_checkpoint_path(given.path))
    adapter = published_folder.fetch(storage, given.path)
    card = tuned_adapter.read_card(storage, given.path)
    assert (card["users"], card["now"], card["until"], card["method"]) == (2, NOW, UNTIL, "pointwise")
    assert str(folders["qwen3"]) not in (adapter / "adapter_config.json").read_text()
    assert list(run(given)) == []
    query = RankingQuery("", (TITLES[0],), tuple(TITLES[4:8]))
    answers = []
    for folder in (None, str(adapter)):
        checkpoint = InstructCheckpoint.open(str(folders["qwen3"]), folder)
        engine = TransformersRunner(checkpoint.model_files, "next_token", EngineSettings(), 600)
        scorer = TEXT_SCORERS["pointwise"](engine, checkpoint, given.scorer_settings, load_templates())
        (answer,) = scorer.score([query])
        assert not isinstance(answer, Failure)
        answers.append(answer)
    assert np.abs(answers[0] - answers[1]).max() > 0.1


def test_an_adapter_of_another_checkpoint_is_refused_in_words(tmp_path: Path, folders: dict[str, Path]) -> None:
    adapter = build_adapter(tmp_path, folders["qwen3"])
    wide = tmp_path / "wide"
    config = AutoConfig.from_pretrained(folders["qwen3"])
    config.intermediate_size *= 2
    AutoModelForCausalLM.from_config(config).save_pretrained(str(wide))
    files = replace(InstructCheckpoint.open(str(folders["qwen3"])).model_files, folder=str(wide), adapter=str(adapter))
    with pytest.raises(ConfigError, match="the adapter does not fit the checkpoint"):
        TransformersRunner(files, "next_token", EngineSettings(), 600)


def test_without_an_example_the_error_says_what_to_do(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="nothing to tune the text reranker on"):
        list(run(spec(tmp_path, folders["qwen3"], variant="another")))


def test_adapters_only_in_the_last_layers(folders: dict[str, Path]) -> None:
    model = text_tuner.model_with_adapter(str(folders["qwen3"]), tuning(layers=1))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".layers.1." in name for name in trained)


def test_tokens_count_the_shared_ones_once() -> None:
    assert PackedPrompts((1, 2, 3), ((4,), (5, 6)), ((0,), (1,)), (1.0, 1.0)).tokens == 6
