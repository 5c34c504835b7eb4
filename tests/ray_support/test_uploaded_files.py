"""What `ray job submit --working-dir .` uploads: Ray's own packaging on a checkout with secrets and outputs in it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from rayrec.storage import Storage, layout

_REPOSITORY = Path(__file__).parents[2]
_SECRETS = (
    ".env",
    ".env.production",
    "conf/.env",
    ".aws/credentials",
    ".netrc",
    "prod.pem",
    "keys/server.key",
    "conf/aws-credentials.json",
    "rayrec/secrets.yaml",
    "id_rsa",
)
_OUTPUTS = (  # of an older version, which wrote no .gitignore
    "results/slates/dt=2011-08-31/manifest.json",
    "results/reports/dt=2011-08-31/report.html",
    "results/erasure/salt.json",
    "results/models/llm/0a1b/rayrec.json",
)


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths in the package of a checkout."""
    checkout = tmp_path_factory.mktemp("checkout") / "rayrec"
    leave_out = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.lock")
    shutil.copytree(_REPOSITORY, checkout, ignore=leave_out)
    for path in (*_SECRETS, *_OUTPUTS):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text("planted")
    output = Storage(str(checkout / "any name"))
    for folder in sorted(layout.TOP_FOLDERS):
        output.write(f"{folder}/plain.csv", b"planted")
    here = Storage(str(checkout))  # output.root: the checkout itself
    here.write(f"{layout.QUARANTINE}/plain.csv", b"planted")
    (checkout / "mine.yaml").write_text("name: mine\n")
    (checkout / "my conf").mkdir()
    (checkout / "my conf" / "shop.yaml").write_text("name: shop\n")
    package = tmp_path_factory.mktemp("package") / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    with zipfile.ZipFile(package) as opened:
        return {name for name in opened.namelist() if not name.endswith("/")}


def test_neither_secrets_nor_outputs_are_uploaded(uploaded: set[str]) -> None:
    assert not uploaded & {*_SECRETS, *_OUTPUTS}
    assert not [path for path in uploaded if "plain.csv" in path or Path(path).name.startswith(".")]


def test_all_that_a_job_needs_is_uploaded(uploaded: set[str]) -> None:
    code = {
        str(file.relative_to(_REPOSITORY))
        for folder in ("jobs", "rayrec", "conf")
        for file in (_REPOSITORY / folder).rglob("*")
        if file.suffix in (".py", ".yaml", ".j2", ".typed")
    }
    assert len(code) > 200
    assert code | {"mine.yaml", "my conf/shop.yaml", "pyproject.toml"} <= uploaded
