from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import ascii_letters, ascii_uppercase

import pytest
from oracle import load
from small_checkpoints import TITLES
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from rayrec.errors import ConfigError
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_scorer import TEXT_SCORERS, start_engine
from rayrec.storage.hf_checkpoint import base_model_id


def copied(checkpoint: InstructCheckpoint, root: Path) -> Path:
    return Path(shutil.copytree(checkpoint.folder, root / checkpoint.folder.name))


def test_prompt_around_a_message_matches_the_template(checkpoint: InstructCheckpoint) -> None:
    """The ids equal those of transformers' own rendering."""
    chat, words = checkpoint.chat(), checkpoint.tokenizer
    ids = [*chat.opening, *words.encode_trusted(TITLES[0]), *chat.closing]
    theirs = AutoTokenizer.from_pretrained(checkpoint.folder).apply_chat_template(
        [{"role": "user", "content": TITLES[0]}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    reader = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    ours = reader.decode(ids, skip_special_tokens=False)
    if "Today Date" in theirs:
        assert "Today Date: 26 Jul 2024\n" in ours
        theirs = theirs.split("\n", 3)[3]
        ours = ours.split("\n", 3)[3]
    assert ours == theirs
    assert ids[-len(chat.closing) :] == reader.encode(theirs, add_special_tokens=False).ids[-len(chat.closing) :]


def test_without_chat_template_the_message_follows_the_begin_token(
    checkpoint: InstructCheckpoint, tmp_path: Path
) -> None:
    folder = copied(checkpoint, tmp_path)
    (folder / "chat_template.jinja").unlink()
    bare = InstructCheckpoint.open(str(folder))
    begin = bare.tokenizer.encode_template("<|begin_of_text|>") if folder.name == "llama" else ()
    assert bare.chat().opening == begin
    assert bare.chat().closing_text == "\n\nAnswer:\n"
    assert "A" in bare.answer_ids(bare.chat(), "AB")


def test_template_without_a_system_role_is_refused_if_one_is_needed(folders: dict[str, Path]) -> None:
    checkpoint = InstructCheckpoint.open(str(folders["gemma"]))
    with pytest.raises(ConfigError, match="System role not supported"):
        checkpoint.chat("Judge.")


@pytest.mark.parametrize("template", ["nothing", "{% for m in messages %}{{ m.content * 2 }}{% endfor %}"])
def test_template_that_hides_or_repeats_the_message_is_refused(
    qwen3: InstructCheckpoint, tmp_path: Path, template: str
) -> None:
    folder = copied(qwen3, tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match="exactly once"):
        InstructCheckpoint.open(str(folder)).chat()


def test_template_that_opens_a_think_block_is_refused(qwen3: InstructCheckpoint, tmp_path: Path) -> None:
    """After it the next token begins a thought, not an answer; a block that is closed does no harm."""
    folder = copied(qwen3, tmp_path)
    shown = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    (folder / "chat_template.jinja").write_text(shown)
    with pytest.raises(ConfigError, match="opens a <think> block"):
        InstructCheckpoint.open(str(folder)).chat()
    (folder / "chat_template.jinja").write_text(f"{shown}</think>\n")
    assert InstructCheckpoint.open(str(folder)).chat().closing_text.endswith("</think>")


def test_letter_is_the_same_single_token_in_the_answer_and_in_the_list(checkpoint: InstructCheckpoint) -> None:
    engine = TransformersRunner(checkpoint.model_files, "next_token", EngineSettings(), 2000)
    scorer = load("listwise", engine, checkpoint, window=26)
    chat, tokenizer = checkpoint.chat(), Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    assert [tokenizer.decode([token]) for token in scorer.ids] == list(ascii_uppercase)
    for token, line, letter in zip(scorer.ids, scorer._lines, ascii_uppercase, strict=True):
        assert checkpoint.tokenizer.encode_template(chat.closing_text + letter) == (*chat.closing, token)
        assert line.count(token) == 1
        assert tokenizer.decode(list(line)) == f"\n{letter}."


def test_letters_of_two_tokens_are_skipped_and_too_few_are_refused(qwen3: InstructCheckpoint, tmp_path: Path) -> None:
    folder = copied(qwen3, tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "C"}, "content": "CC"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    checkpoint = InstructCheckpoint.open(str(folder))
    chat = checkpoint.chat()
    assert "C" not in checkpoint.answer_ids(chat, "ABCD")
    assert len(checkpoint.letter_ids(chat, ascii_letters, 3, "here")) == 3
    with pytest.raises(ConfigError, match="52 letters are needed, 51 are one token"):
        checkpoint.letter_ids(chat, ascii_letters, 52, "here")


def test_checkpoint_without_single_token_yes_is_refused(qwen3: InstructCheckpoint, tmp_path: Path) -> None:
    engine = TransformersRunner(qwen3.model_files, "next_token", EngineSettings(), 1000)
    assert load("pointwise", engine, qwen3).ids
    with pytest.raises(ConfigError, match="yes and no are not one token"):
        load("pointwise", engine, qwen3, prompt="qwen3_reranker")  # lower case is two tokens in this tokenizer


def test_incomplete_folders_and_other_weight_formats_are_refused(qwen3: InstructCheckpoint, tmp_path: Path) -> None:
    folder = copied(qwen3, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        InstructCheckpoint.open(str(folder))
    with pytest.raises(ConfigError, match="adapter_config"):
        InstructCheckpoint.open(str(qwen3.folder), str(folder))
    with pytest.raises(ConfigError, match=r"config\.json"):
        InstructCheckpoint.open("Qwen/Qwen3-0.6B")


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
        "merges.txt",
        "tokenizer.model",
    ],
)
def test_scoring_and_tuning_identify_a_checkpoint_by_the_same_files(
    file: str, qwen3: InstructCheckpoint, tmp_path: Path
) -> None:
    folder = copied(qwen3, tmp_path)
    (folder / "README.md").write_text("What a checkpoint says does not depend on this.")
    assert base_model_id(str(folder), "tuning.base") == InstructCheckpoint.open(str(folder)).digest == qwen3.digest
    with open(folder / file, "ab") as content:
        content.write(b"\n")
    changed = base_model_id(str(folder), "tuning.base")
    assert changed == InstructCheckpoint.open(str(folder)).digest != qwen3.digest


def test_settings_that_cannot_fit_are_refused_when_loaded(qwen3: InstructCheckpoint) -> None:
    engine = TransformersRunner(qwen3.model_files, "next_token", EngineSettings(), 300)
    with pytest.raises(ConfigError, match="too short"):
        load("listwise", engine, qwen3, prompt_tokens=300)


def test_unknown_methods_and_settings_are_named(qwen3: InstructCheckpoint) -> None:
    with pytest.raises(ConfigError, match="no reranker 'label'"):
        TEXT_SCORERS.lookup("label")
    for settings, says in (({"windows": 3}, "window"), ({"window": 60}, "52"), ({"permutations": 3}, "even")):
        with pytest.raises(ConfigError, match=says):
            TEXT_SCORERS.settings("listwise", settings)
    unsafe = EngineSettings(vllm={"trust_remote_code": True})
    with pytest.raises(ConfigError, match=r"not taken here.*: trust_remote_code"):
        start_engine("vllm", qwen3, unsafe, 300)


def test_a_folder_with_weights_in_another_format_is_no_base(qwen3: InstructCheckpoint, tmp_path: Path) -> None:
    folder = copied(qwen3, tmp_path)
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(ConfigError, match=r"no base model in the folder: no \*\.safetensors"):
        base_model_id(str(folder), "tuning.base")
