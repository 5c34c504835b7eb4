"""Shown text has no secrets, no quoted rows and no characters that a terminal obeys, and keeps everything else."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.errors import DataError, StorageError
from rayrec.redaction import printable, shown

SECRET = "Zq3-x9/Kw+7T"


@pytest.mark.parametrize(
    "text",
    [
        f"cannot open s3://user:{SECRET}@bucket/key",
        f"GET https://store.blob.core.windows.net/c/f?sv=2024&sig={SECRET} failed",
        f"https://b.s3.amazonaws.com/k?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
        f"https://storage.googleapis.com/b/k?X-Goog-Signature={SECRET}",
        f"aws_secret_access_key={SECRET}",
        f'{{"secret": "{SECRET}", "key": 1}}',
        f"AccountKey={SECRET};EndpointSuffix=core.windows.net",
        f"Authorization: Bearer {SECRET}",
        f"'password': '{SECRET}'",
        f"RAY_AUTH_TOKEN={SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    assert SECRET not in shown(text)
    assert "***" in shown(text)
    assert SECRET not in str(StorageError(text, where=text, hint=text))
    assert SECRET not in str(pickle.loads(pickle.dumps(DataError(text))))


@pytest.mark.parametrize(
    "text", ["AKIAIOSFODNN7EXAMPLE", "hf_abcdefghijklmnopqrstuvwx", "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln"]
)
def test_tokens_of_known_forms_are_hidden(text: str) -> None:
    assert shown(f"refused {text}!") == "refused ***!"


def test_values_of_secret_variables_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "plainwords")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/ray/.ray/auth_token")
    assert shown("the client sent plainwords to /home/ray/.ray/auth_token") == (
        "the client sent *** to /home/ray/.ray/auth_token"
    )


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/dt=2011-08-31/x.parquet",
        "abfss://container@account.dfs.core.windows.net/path",
        "rerank.settings.item_tokens: Input should be greater than 0",
        "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to what the cluster started with",
        "the Ray cluster refuses the token\n  where: auto\n  to do: see\tdocs",
        "there is no column 'user_id'; the columns are 'USER_ID', 'ts'",
        "write it as --set section.key=value",
        "weiß+%41#?.parquet, 名前, ☃",
    ],
)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07red",
        "\x1b]8;;http://x\x1b\\red",
        "\x9b31mred",
        "\x1bPq#0\x1b\\red",
        "red\x1b[",
    ],
)
def test_terminal_sequences_go(text: str) -> None:
    assert printable(text).rstrip("[\ufffd") == "red"


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    left = printable(text)
    assert all(char in "\n\t" or (ord(char) >= 32 and not 0x7F <= ord(char) <= 0x9F) for char in left)
    assert not set(left) & set("\u202a\u202e\u2066\u2069\u200b\ufeff")
    assert printable(left) == left


@pytest.mark.parametrize(
    ("text", "column"), [("user_id,x\nuser-of-ours\n", "user_id"), ("user_id,n\n1,2\nuser-of-ours,3\n", "user_id")]
)
def test_arrows_messages_do_not_quote_rows(text: str, column: str) -> None:
    options = pa_csv.ConvertOptions(column_types={column: pa.int64()})
    with pytest.raises(pa.ArrowInvalid, match="user-of-ours") as caught:
        pa_csv.read_csv(pa.BufferReader(text.encode()), convert_options=options)
    assert "user-of-ours" not in shown(caught.value)
    with pytest.raises(pa.ArrowInvalid, match="user-of-ours") as caught:
        pa.array(["user-of-ours"]).cast(pa.int64())
    assert "user-of-ours" not in shown(caught.value)


_CRASHING = """
from jobs.cli import command
def job() -> None:
    '''A job.'''
    raise KeyError("\\x1b[31m s3://user:Zq3-x9@bucket/")
command(job)()
"""


def test_the_traceback_of_a_defect_has_no_secrets(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CRASHING], text=True, capture_output=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert "Traceback" in done.stderr
    assert "Zq3" not in done.stderr
    assert "\x1b" not in done.stderr
