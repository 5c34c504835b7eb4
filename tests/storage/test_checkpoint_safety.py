"""Checkpoints that lead out of their folder, load code, or cost seconds are refused with words; honest ones are not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayrec.errors import ConfigError
from rayrec.storage import limited_process
from rayrec.storage.checkpoint_safety import require_safe
from rayrec.storage.hf_checkpoint import base_model_id, checkpoint_digest, load_causal_lm, load_tokenizer
from rayrec.storage.tokenizer_safety import require_safe_tokenizer

WHERE = "rerank.checkpoint: here"
CONFIG = {"model_type": "qwen3", "num_hidden_layers": 2, "vocab_size": 100, "rope_theta": 1e6, "auto_map": None}
ADAPTER = {"peft_type": "LORA", "r": 8, "megatron_config": None, "megatron_core": "megatron.core", "auto_mapping": None}
TOKENIZER = {
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+|\\w+"}, "behavior": "Isolated", "invert": False},
    "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a checkpoint in two parts."""
    made = tmp_path / "model"
    made.mkdir()
    write(made, "config.json", CONFIG)
    write(made, "tokenizer.json", TOKENIZER)
    write(
        made, "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    )
    for n in (1, 2):
        (made / f"model-{n}.safetensors").write_bytes(b"%d" % n)
    return made


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf8")


def refusal(folder: Path, **more: bool) -> str:
    with pytest.raises(ConfigError) as refused:
        require_safe(folder, WHERE, **more)
    assert refused.value.where == WHERE
    return str(refused.value)


def test_a_plain_checkpoint_is_taken(folder: Path) -> None:
    require_safe(folder, WHERE)
    require_safe_tokenizer(folder, WHERE)


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors",
        "/etc/passwd",
        "sub/../../x.safetensors",
        "sub/x.safetensors",
        "pytorch_model.bin",
        "~/x.safetensors",
        "model-3.safetensors",
        "..\\x.safetensors",
        "",
        "http://host/x.safetensors",
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    write(folder, "model.safetensors.index.json", {"weight_map": {"a": name}})
    assert "the index names" in refusal(folder)


@pytest.mark.parametrize(
    "content", [[], {}, {"weight_map": []}, {"weight_map": None}, "not JSON", "[" * 100_000, "\ufffe"]
)
def test_an_unreadable_index_is_refused(folder: Path, content: Any) -> None:
    write(folder, "model.safetensors.index.json", content)
    assert refusal(folder)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../outside", "a link leads out"),
        ("/etc/passwd", "a link leads out"),
        ("nowhere", "cannot be read"),
        ("loop", "cannot be read"),
    ],
)
@pytest.mark.parametrize("place", ["loop", "sub/loop"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, target: str, message: str, place: str) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to(target if target.startswith(("/", "n", "l")) else f"{'../' * place.count('/')}{target}")
    assert message in refusal(folder)
    with pytest.raises(ConfigError):
        checkpoint_digest(folder)


def test_links_to_other_folders_are_refused_and_those_of_the_hub_cache_are_not(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (folder / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    assert "a link leads out" in refusal(folder)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0a1b"
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs" / "77").write_text(json.dumps(CONFIG))
    (snapshot / "config.json").symlink_to("../../blobs/77")
    require_safe(snapshot, WHERE)


def test_a_pipe_is_refused_and_not_read(folder: Path) -> None:
    os.mkfifo(folder / "generation_config.json")
    assert "no regular file" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"text_config": {"auto_map": {"AutoConfig": "evil--repo.Config"}}},
        {"custom_pipelines": {"x": {"impl": "evil.Pipeline"}}},
        {"trust_remote_code": True},
        {"attn_implementation": "kernels-community/flash-attn2"},
        {"_attn_implementation": "somebody/kernel:function"},
        {"_attn_implementation_internal": "flash_attention_3"},
        {"attn_implementation": {"text_config": "evil/kernel"}},
        {"experts_implementation": "evil/kernel"},
        {"text_config": {"attn_implementation": "paged|evil/kernel"}},
        {"quantization_config": {"quant_method": "quark"}},
        {"quantization_config": {"quant_method": "evil.module.Config"}},
        {"quantization_config": {"bits": 4}},
        {"quantization_config": "awq"},
        {"compression_config": {"quant_method": "torchao"}},
        {"text_config": {"quantization_config": {"quant_method": "hqq"}}},
        {"speculators_config": {"verifier": {"name_or_path": "/elsewhere"}}},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.x"}},
        {"sbert_ce_default_activation_function": "os.system"},
        {"kernel_config": {"RMSNorm": "evil/kernel:RMSNorm"}},
        {"num_hidden_layers": 10**9},
        {"text_config": {"num_hidden_layers": 10**6}},
        {"n_layer": 5_000},
        {"num_experts": 10**7},
        {"vocab_size": 10**13},
        {"hidden_size": 10**30},
    ],
    ids=str,
)
def test_settings_that_load_code_or_fill_memory_are_refused(folder: Path, change: dict[str, Any]) -> None:
    write(folder, "config.json", CONFIG | change)
    assert "the checkpoint is refused: config.json" in refusal(folder)
    for load in (load_causal_lm, load_tokenizer, base_model_id):
        with pytest.raises(ConfigError, match="the checkpoint is refused"):
            load(str(folder), "tuning.base")


@pytest.mark.parametrize("name", ["organisation/model", "/no/such/model"])
def test_only_folders_are_loaded_and_no_names_of_a_hub(name: str) -> None:
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(ConfigError, match="there is no such folder"):
            load(name, "tuning.base")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}),
        ("tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.Processor"}}),
        ("generation_config.json", {"custom_generate": "evil/repo"}),
        ("additional/config.json", {"auto_map": {"x": "y"}}),
        ("adapter_config.json", {"base_model_name_or_path": "/elsewhere", "peft_type": "LORA", "r": 8}),
        ("config.json", []),
        ("config.json", "{" * 3),
        ("config.json", '{"a":' * 50_000 + "1" + "}" * 50_000),
        ("config.json", '{"num_hidden_layers": ' + "9" * 5_000 + "}"),
    ],
)
def test_other_files_follow_the_same_rule(folder: Path, name: str, content: Any) -> None:
    write(folder, name, content)
    assert name.rpartition("/")[2] in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"_attn_implementation": "sdpa"},
        {"_attn_implementation_autoset": True},
        {"max_position_embeddings": 10**7, "torch_dtype": "bfloat16"},
    ],
    ids=str,
)
def test_settings_of_honest_checkpoints_are_taken(folder: Path, change: dict[str, Any]) -> None:
    write(folder, "config.json", CONFIG | change)
    write(folder, "vocab.json", {"auto_map": 1})  # keys of a vocabulary are words
    require_safe(folder, WHERE)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "BONE"},
        {"peft_type": None},
        {"r": 10**9},
        {"r": "8"},
        {"r": True},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"(a+)+": 4}},
        {"alpha_pattern": {"(a*)*b": 4}},
        {"target_modules": "(.*)+x"},
        {"exclude_modules": "(a|b*)*"},
        {"auto_mapping": {"parent_library": "os", "base_model_class": "x"}},
        {"megatron_config": {"x": 1}, "megatron_core": "os"},
        {"base_model_name_or_path": "https://host/model"},
        {"base_model_name_or_path": 7},
    ],
    ids=str,
)
def test_an_adapter_that_loads_code_or_runs_long_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, "adapter_config.json", ADAPTER | change)
    assert "adapter_config.json" in refusal(tmp_path, adapter=True)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"target_modules": "all-linear"},
        {"base_model_name_or_path": "Qwen/Qwen3-0.6B"},
        {"rank_pattern": {"q_proj": 4}},
        {"target_modules": ["q_proj"]},
    ],
    ids=str,
)
def test_an_honest_adapter_is_taken(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, "adapter_config.json", ADAPTER | change)
    require_safe(tmp_path, WHERE, adapter=True)


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replaced(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": split("(a+)+$")},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("(x*)*y")]}},
        {"normalizer": replaced("a", "a" * 10_000)},
        {"normalizer": {"type": "Sequence", "normalizers": [replaced("q", "qq")] * 60}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 200}},
        {"model": {"type": "Nothing"}},
        {"model": None},
    ],
    ids=lambda change: str(change)[:60],
)
def test_a_tokenizer_that_takes_minutes_or_gigabytes_is_refused(
    folder: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited_process, "TOKENIZER_CPU_S", 1)
    write(folder, "tokenizer.json", TOKENIZER | change)
    with pytest.raises(ConfigError, match=r"the checkpoint is refused: tokenizer\.json"):
        require_safe_tokenizer(folder, WHERE)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{% set ns = namespace(x='xx') %}{% for n in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 10 ** 1000000000 }}",
        "{{ '%1000000000d' | format(7) }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for a in range(99999) %}{{ 'long text of some kind' }}{% endfor %}",
    ],
)
def test_a_template_that_takes_seconds_or_memory_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_process, "TEMPLATE_CPU_S", 1)
    with pytest.raises((limited_process.LimitError, limited_process.RefusedError)):
        limited_process.render(template, {"messages": []})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set n = namespace(__class__=1) %}",
        "{{ raise_exception('no') }}",
        "{% include 'x' %}",
        "{{ open('/etc/passwd') }}",
    ],
)
def test_a_template_reaches_nothing_outside(template: str) -> None:
    with pytest.raises(limited_process.RefusedError):
        limited_process.render(template, {"messages": []})


def test_templates_have_what_transformers_gives_them() -> None:
    template = (
        "{%- set ns = namespace(n=0) -%}\n{% for m in messages %}\n{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% set ns.n = 1 %}{% endgeneration %}\n{% endfor %}"
        "{{ ns.n }}{{ tools }}{{ dict(a=1).a }}"
    )
    text = limited_process.render(template, {"messages": [{"a": "<ü>"}, {"b": 2}], "tools": None})
    assert '{"a": "<ü>"}' in text
    assert text.endswith("1None1")


def test_the_digest_covers_every_file_that_is_loaded(folder: Path) -> None:
    write(folder, "additional_chat_templates/tool.jinja", "one")
    changes: list[Callable[[], Any]] = [
        lambda: write(folder, "additional_chat_templates/tool.jinja", "two"),
        lambda: write(folder, "chat_template.jinja", "x"),
        lambda: write(folder, "1_Pooling/config.json", {"a": 1}),
        lambda: (folder / "model-2.safetensors").write_bytes(b"3"),
        lambda: write(folder, "merges.txt", "x"),
        lambda: (folder / "tokenizer.model").write_bytes(b"x"),
    ]
    digests = [checkpoint_digest(folder)]
    for change in changes:
        change()
        digests.append(checkpoint_digest(folder))
    assert len(set(digests)) == len(digests)
    write(folder, "README.md", "x")
    write(folder, ".cache/huggingface/x.json", "x")
    assert checkpoint_digest(folder) == digests[-1]
