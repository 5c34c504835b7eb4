"""The trials of the harness: each makes a fault by its number and seed, and proves that nothing is lost.

After a fault readers see nothing or the whole day, and the next run gives the rows of an uninterrupted one.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import drivers
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from drivers import Driver, Ended
from s3_server import injected, make_failing_bucket
from small_runs import differences
from soak_runs import evaluate_alone, forget_alone, run_alone
from storage_faults import CONTROL, Plan, calls, faults
from tiny_runs import TinyShop

from rayrec.errors import PublicationError
from rayrec.publishing.manifest import find_manifest
from rayrec.storage import Storage

OTHER = ("slate.size=7",)  # another config
USER_ERRORS = (2, 3, 4)  # exit codes of errors with words


@dataclass
class Field:
    """A shop, the rows that its runs must give, and how many storage calls and writes an undisturbed run makes."""

    folder: Path
    shop: TinyShop
    expected: pa.Table = None
    expected_other: pa.Table = None
    calls: int = 0
    writes: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def make(cls, folder: Path) -> Field:
        made = cls(folder, TinyShop.make(folder / "shop"))
        made.expected, made.calls, made.writes = made._undisturbed(())
        made.expected_other, _, _ = made._undisturbed(OTHER)
        return made

    def _undisturbed(self, overrides: Sequence[str]) -> tuple[pa.Table, int, int]:
        out = self.folder / "undisturbed"
        Plan().write(self.control)
        ended = self.start(run_alone, self.shop, str(out), overrides).wait()
        assert ended.status == 0, ended
        published = self.shop.published(out)
        shutil.rmtree(out)
        return published, *calls(self.control)

    @property
    def control(self) -> Path:
        return self.folder / "control"

    def new_root(self) -> Path:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        return out

    def start(self, work: Callable[..., None], *arguments: Any) -> Driver:
        environment = {CONTROL: str(self.control)}
        return drivers.start(work, *arguments, folder=self.folder / "ended", environment=environment)

    def run(self, work: Callable[..., None], *arguments: Any, plan: Plan | None = None) -> Ended:
        """Under the plan; `calls` and `faults` then count what happened."""
        (plan or Plan()).write(self.control)
        return self.start(work, *arguments).wait()

    def assert_nothing_half(self, root: Path | str) -> bool:
        """Readers see nothing, or all. True: all."""
        try:
            seen = self.shop.published(root)
        except PublicationError as nothing:
            if "nothing is published here" not in str(nothing):
                raise
            return False
        self.assert_whole(seen)
        return True

    def assert_whole(self, seen: pa.Table, *, but: tuple[str, ...] = ()) -> None:
        assert not differences(seen, self.expected, but=but), differences(seen, self.expected, but=but)

    def assert_resumes(self, root: Path | str) -> None:
        """The next run ends well, with the rows of an undisturbed one and no other files among the slates."""
        again = self.run(run_alone, self.shop, str(root))
        assert again.status == 0, again
        self.assert_whole(self.shop.published(root))
        storage = Storage(str(root))
        manifest = find_manifest(storage, self.shop.dataset.date)
        assert manifest is not None
        named = {file.path for file in manifest.files}
        assert {info.path for info in storage.list("slates") if info.path.endswith(".parquet")} == named


def kill(field: Field, chance: random.Random, number: int) -> None:
    """kill -9 of a run at one of its storage calls; now and then also of the run that resumes."""
    root = field.new_root()
    for _ in range(1 + (chance.random() < 0.25)):
        plan = Plan("kill", at=chance.randint(1, field.calls), after=chance.random() < 0.5)
        ended = field.run(run_alone, field.shop, str(root), plan=plan)
        assert ended.was_killed == bool(faults(field.control)), ended
        assert ended.was_killed or ended.status == 0, ended
        field.counts["kills"] += ended.was_killed
        field.assert_nothing_half(root)
    field.assert_resumes(root)


FULL_KINDS = ("a call", "half a file", "from then on")


def full_disk(field: Field, chance: random.Random, number: int) -> None:
    """No space at a write: number // 3 says which, number % 3 how."""
    root, kind = field.new_root(), number % len(FULL_KINDS)
    plan = Plan("full", at=1 + number // len(FULL_KINDS) % field.writes, half=kind == 1, lasting=kind == 2)
    ended = field.run(run_alone, field.shop, str(root), plan=plan)
    assert faults(field.control), "the write was not reached"
    field.counts["full disks"] += 1
    if ended.status:
        assert ended.error == "StorageError", ended
        assert "No space left" in ended.text or "File too large" in ended.text, ended
    field.assert_nothing_half(root)
    left = list(root.rglob("*.tmp"))
    assert not left, left
    field.assert_resumes(root)


def failing_storage(field: Field, chance: random.Random, number: int) -> None:
    """Local storage that fails in passing and delays calls."""
    root = field.new_root()
    plan = Plan("flaky", percent=chance.choice((1, 5, 10)), seed=chance.randrange(1 << 30))
    ended = field.run(run_alone, field.shop, str(root), plan=plan)
    assert ended.status == 0, ended
    field.counts["local storage faults"] += faults(field.control)
    assert field.assert_nothing_half(root)
    field.assert_resumes(root)


def failing_s3(field: Field, endpoint: str, chance: random.Random, number: int) -> None:
    """An S3 that fails: input, work, models and slates."""
    root = make_failing_bucket(5, chance.randrange(1 << 20))
    field.shop.copy_data(f"{root}/data")
    ended = field.run(run_alone, field.shop, f"{root}/out", (f"data.root={root}/data",))
    assert ended.status == 0, ended
    found = injected(endpoint, root)
    field.counts["S3 requests"] += found.pop("requests")
    field.counts["S3 faults"] += sum(found.values())
    field.assert_whole(field.shop.published(f"{root}/out"), but=("slate_id",))


def at_once(field: Field, chance: random.Random, number: int) -> None:
    """Jobs at once on one root, their storage calls delayed by seed."""
    kinds = (_two_configs, _two_versions, _one_run_twice, _forget_and_evaluate, _forget_and_run)
    kinds[number % len(kinds)](field, chance)
    field.counts["jobs at once"] += 2


def _both(field: Field, chance: random.Random, *jobs: tuple[Any, ...]) -> list[Ended]:
    Plan("flaky", percent=0, seed=chance.randrange(1 << 30)).write(field.control)
    ended = [driver.wait() for driver in [field.start(*job) for job in jobs]]
    assert all(each.status in (0, *USER_ERRORS) for each in ended), ended
    return ended


def _two_configs(field: Field, chance: random.Random) -> None:
    root = str(field.new_root())
    one, other = _both(field, chance, (run_alone, field.shop, root), (run_alone, field.shop, root, OTHER))
    assert sorted((one.status, other.status)) == [0, 4], (one, other)
    expected = field.expected if one.status == 0 else field.expected_other
    assert not differences(field.shop.published(root), expected)


def _two_versions(field: Field, chance: random.Random) -> None:
    root = str(field.new_root())
    ended = _both(field, chance, (run_alone, field.shop, root), (run_alone, field.shop, root, (), "other"))
    assert [each.status for each in ended] == [0, 0], ended
    field.assert_whole(field.shop.published(root))


def _one_run_twice(field: Field, chance: random.Random) -> None:
    root = str(field.new_root())
    ended = _both(field, chance, *[(run_alone, field.shop, root)] * 2)
    assert [each.status for each in ended] == [0, 0], ended
    field.assert_resumes(root)


def _forget_and_evaluate(field: Field, chance: random.Random) -> None:
    root, user = field.new_root(), _some_user(field, chance)
    assert field.run(run_alone, field.shop, str(root), (), "").status == 0
    forgetting = (forget_alone, field.shop, str(root), _file(field, user))
    _both(field, chance, forgetting, (evaluate_alone, field.shop, str(root)))
    _assert_forgotten(field, root, user, everywhere=True)


def _forget_and_run(field: Field, chance: random.Random) -> None:
    """Against the advice of docs/operations.md: the run may leave work files of a user, but publishes none."""
    root, user = field.new_root(), _some_user(field, chance)
    forgetting = (forget_alone, field.shop, str(root), _file(field, user))
    _both(field, chance, (run_alone, field.shop, str(root), (), ""), forgetting)
    again = field.run(run_alone, field.shop, str(root), (), "")
    assert again.status in (0, 4), again
    _assert_forgotten(field, root, user, everywhere=False)


def _some_user(field: Field, chance: random.Random) -> str:
    return str(chance.choice(sorted(set(field.expected["user_id"].to_pylist()))))


def _file(field: Field, user: str) -> str:
    path = field.folder / "users.csv"
    pa_csv.write_csv(pa.table({"user_id": [user]}), path)
    return str(path)


def _assert_forgotten(field: Field, root: Path, user: str, *, everywhere: bool) -> None:
    """After one more erasure the user is not published, or nowhere at all, and the others have everything."""
    again = field.run(forget_alone, field.shop, str(root), _file(field, user))
    assert again.status == 0, again
    seen = field.shop.published(root)
    users = set(seen["user_id"].to_pylist())
    assert user not in users
    assert users == set(field.expected["user_id"].to_pylist()) - {user}
    others = field.expected.filter(pc.not_equal(field.expected["user_id"], user))
    assert seen.num_rows == others.num_rows
    if not everywhere:
        return
    naming = [path for path in root.rglob("*") if path.is_file() and user.encode() in path.read_bytes()]
    assert not naming, naming
