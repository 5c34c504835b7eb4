"""The embedding job on synthetic data: publication, rerun, resumption, independence of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.config import Config, load
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset
from rayrec.embeddings import (
    Embedder,
    Events,
    Items,
    leave_one_out,
    read_embeddings,
    read_influences,
    read_neighbours,
    vectors_of,
)
from rayrec.errors import ConfigError, PublicationError
from rayrec.pipeline import embedding_run
from rayrec.pipeline.embedding_products import record_of
from rayrec.pipeline.embedding_training import model_fingerprint, settings_of
from rayrec.pipeline.interaction_ingest import histories, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.storage.layout import manifest_path

CONFIG = Path(__file__).resolve().parents[2] / "jobs" / "demo.yaml"
SECTION = """
embeddings={
  horizon_days: 7.0,
  model: {encoder_width: 16, width: 32, heads: 2, feedforward: 32, layers: 1, dim: 16},
  training: {cutoffs: 1, epochs: 1, max_users: 80},
  instructions: {
    again: {text: Will this shopper come again, answer: {kind: again}},
    next: {text: What will this shopper want next, answer: {kind: next}},
    patient: {text: Is this shopper patient}}}
""".strip()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("shop"), seed=3, users=120)


def context_of(shop: SyntheticDataset, root: Path, *sets: str) -> RunContext:
    config: Config = load(CONFIG, [f"data.root={shop.data_root}", f"output.root={root}", SECTION, *sets])
    return RunContext(config, shop.date)


@pytest.fixture(scope="module")
def published(
    local_ray: None, shop: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunContext, embedding_run.EmbedResult]:
    run_context = context_of(shop, tmp_path_factory.mktemp("out"))
    return run_context, embedding_run.run(run_context)


def test_every_user_with_a_history_gets_a_vector_per_instruction(
    published: tuple[RunContext, embedding_run.EmbedResult],
) -> None:
    run_context, embedded = published
    root, manifest = run_context.config.output.root, embedded.publication.manifest
    assert embedded.publication.outcome == "published"
    assert manifest.users.users_in == manifest.users.published + sum(manifest.users.quarantined.values()) + sum(
        manifest.users.ineligible.values()
    )
    known = [u for k in range(4) for u in histories(run_context, k)["user_id"].to_pylist()]
    for instruction in ("again", "next", "patient"):
        table = read_embeddings(root, run_context.date, instruction, verify=True)
        assert sorted(table["user_id"].to_pylist()) == sorted(known)
        assert set(table["instruction_id"].to_pylist()) == {instruction}
        assert all("profile" in sources for sources in table["sources"].to_pylist())


def test_a_rerun_changes_nothing(published: tuple[RunContext, embedding_run.EmbedResult]) -> None:
    run_context, _ = published
    before = {file.path: file.version for file in run_context.storage.list()}
    assert embedding_run.run(run_context).already_published
    assert {file.path: file.version for file in run_context.storage.list()} == before


def test_a_loaded_model_reproduces_the_published_vectors(
    published: tuple[RunContext, embedding_run.EmbedResult],
) -> None:
    run_context, embedded = published
    model = Embedder.load(run_context.storage, embedded.publication.manifest.models["embedder"])
    table = histories(run_context, 2)
    viewer = model.view_builder(Items.of(read_catalogue(run_context), "price"))
    views = viewer(Events.of(table, run_context.event_weights, run_context.cutoff))
    found = model.embed(views, ["Is this shopper patient"])[0]
    users = table["user_id"].to_pylist()
    stored = read_embeddings(run_context.config.output.root, run_context.date, "patient", users=users)
    order = np.argsort(users)
    assert stored["user_id"].to_pylist() == sorted(users)
    np.testing.assert_array_equal(vectors_of(stored), found[order])


def test_a_run_without_its_manifest_and_a_shard_recreates_the_same_rows(
    published: tuple[RunContext, embedding_run.EmbedResult],
) -> None:
    run_context, _ = published
    whole = read_embeddings(run_context.config.output.root, run_context.date, "again")
    run_context.storage.delete(manifest_path(run_context.date, "embeddings"))
    run_id = record_of(run_context).run_id
    run_context.storage.delete(f"runs/dt={run_context.dt}/{run_id}/receipts/shard=0001.json")
    assert embedding_run.run(run_context).publication.outcome == "published"
    assert read_embeddings(run_context.config.output.root, run_context.date, "again", verify=True).equals(whole)


def test_neighbours_are_published_with_the_vectors(
    published: tuple[RunContext, embedding_run.EmbedResult], shop: SyntheticDataset
) -> None:
    run_context, embedded = published
    root = run_context.config.output.root
    more = context_of(shop, Path(root), "embeddings.neighbours={users: 5, items: 3}")
    before = {file.path: file.version for file in run_context.storage.list("embeddings")}
    first = embedding_run.run(more)
    assert first.already_published
    assert first.neighbours is not None
    assert first.neighbours.manifest.arms == ("again.users", "next.users", "patient.users", "next.items")
    assert {file.path: file.version for file in run_context.storage.list("embeddings")} == before
    table = read_embeddings(root, run_context.date, "patient").sort_by("user_id")
    users, vectors = table["user_id"].to_pylist(), vectors_of(table).astype(np.float64)
    near = read_neighbours(root, run_context.date, "patient", "users", verify=True).sort_by(
        [("user_id", "ascending"), ("rank", "ascending")]
    )
    assert near["user_id"].to_pylist() == [user for user in users for _ in range(5)]
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    np.testing.assert_allclose(near["similarity"].to_numpy(), np.sort(cosine, axis=1)[:, :-6:-1].ravel(), atol=1e-6)
    items = read_neighbours(root, run_context.date, "next", "items", users=users[:2])
    titles = read_catalogue(run_context)["item_id"].to_pylist()
    assert items["rank"].to_pylist() == [1, 2, 3, 1, 2, 3]
    assert set(items["item_id"].to_pylist()) <= set(titles)
    model = Embedder.load(run_context.storage, embedded.publication.manifest.models["embedder"])
    named = model.embed_items(Items.of(read_catalogue(run_context), "price"))
    asked = vectors_of(read_embeddings(root, run_context.date, "next", users=users[:1]))[0]
    best = items.filter(pc.equal(items["user_id"], users[0]))["similarity"].to_numpy()
    np.testing.assert_allclose(best, np.sort(named @ asked)[:-4:-1], atol=1e-6)
    again = embedding_run.run(more).neighbours
    assert again is not None
    assert again.manifest == first.neighbours.manifest
    with pytest.raises(PublicationError, match=r"neighbours\.users: 5 -> 6"):
        embedding_run.run(context_of(shop, Path(root), "embeddings.neighbours={users: 6, items: 3}"))
    with pytest.raises(ConfigError, match="kind next"):
        context_of(shop, Path(root), "embeddings.neighbours={items: 3}", "embeddings.instructions.next={text: Next}")


def test_influences_are_published_with_the_vectors(
    published: tuple[RunContext, embedding_run.EmbedResult], shop: SyntheticDataset
) -> None:
    run_context, embedded = published
    root = run_context.config.output.root
    swept = [file.path for file in run_context.storage.list("work")]
    assert swept
    for path in swept:
        run_context.storage.delete(path)  # all inputs are read again
    more = context_of(shop, Path(root), "embeddings.influence={events: 3}")
    first = embedding_run.run(more)
    assert first.already_published
    assert first.influences is not None
    assert first.influences.manifest.arms == ("again", "next", "patient")
    table = histories(run_context, 1).sort_by("user_id")
    model = Embedder.load(run_context.storage, embedded.publication.manifest.models["embedder"])
    catalogue = read_catalogue(run_context)
    events = Events.of(table, run_context.event_weights, run_context.cutoff)
    found = leave_one_out(model, model.view_builder(Items.of(catalogue, "price")), events, ["Is this shopper patient"])
    users = table["user_id"].to_pylist()
    rows = read_influences(root, run_context.date, "patient", users=users, verify=True)
    assert not any(rows["removed"].to_pylist())
    assert set(rows["event"].to_pylist()) <= set(run_context.config.data.events)
    at = 0
    for n, user in enumerate(users):
        own = slice(events.offsets[n], events.offsets[n + 1])
        many = min(3, int(events.lengths[n]))
        part = rows.slice(at, many)
        best = np.argsort(-found.influence[0, own], kind="stable")[:many]
        assert part["user_id"].to_pylist() == [user] * many
        assert part["rank"].to_pylist() == list(range(1, many + 1))
        np.testing.assert_array_equal(part["influence"].to_numpy(), found.influence[0, own][best])
        np.testing.assert_array_equal(part["alignment"].to_numpy(), found.alignment[0, own][best])
        items = [catalogue["item_id"][int(code)].as_py() for code in events.item[own][best]]
        assert part["item_id"].to_pylist() == items
        assert part["ts"].cast(pa.int64()).to_pylist() == events.ts[own][best].tolist()
        at += many
    assert at == len(rows)
    again = embedding_run.run(more).influences
    assert again is not None
    assert again.manifest == first.influences.manifest
    with pytest.raises(PublicationError, match=r"influence\.events: 3 -> 4"):
        embedding_run.run(context_of(shop, Path(root), "embeddings.influence={events: 4}"))


def test_events_may_be_removed_from_the_vector_of_one_instruction_only_and_shards_do_not_matter(
    published: tuple[RunContext, embedding_run.EmbedResult], shop: SyntheticDataset, tmp_path: Path
) -> None:
    run_context, _ = published
    instruction = "embeddings.instructions.patient={text: Is this shopper patient, max_removed_share: 0.3}"
    less = context_of(shop, tmp_path, instruction, "embeddings.influence={events: 1000}", "data.shards=2")
    assert model_fingerprint(context_of(shop, tmp_path, instruction)) == model_fingerprint(run_context)
    assert record_of(less).identity != record_of(run_context).identity
    embedding_run.run(less)
    rows = read_influences(tmp_path, run_context.date, "patient")
    gone = rows.filter(rows["removed"])
    assert 0 < len(gone) < 0.3 * len(rows)
    assert not any(read_influences(tmp_path, run_context.date, "again")["removed"].to_pylist())
    for name, same in (("again", True), ("next", True), ("patient", False)):
        before, after = (
            pa.table(read_embeddings(d.config.output.root, d.date, name)).sort_by("user_id")
            for d in (run_context, less)
        )
        assert before["user_id"].equals(after["user_id"])
        assert np.array_equal(vectors_of(before), vectors_of(after)) == same
    user = gone["user_id"][0].as_py()
    codes = {item: code for code, item in enumerate(read_catalogue(less)["item_id"].to_pylist())}
    table = pa.concat_tables([histories(less, shard) for shard in range(less.config.data.shard_count)])
    events = Events.of(table.filter(pc.equal(table["user_id"], user)), less.event_weights, less.cutoff)
    without = gone.filter(pc.equal(gone["user_id"], user))
    pairs = set(
        zip((codes[i] for i in without["item_id"].to_pylist()), without["ts"].cast(pa.int64()).to_pylist(), strict=True)
    )
    kept = np.array([pair not in pairs for pair in zip(events.item.tolist(), events.ts.tolist(), strict=True)])
    model = Embedder.load(less.storage, model_fingerprint(less))
    viewer = model.view_builder(Items.of(read_catalogue(less), "price"))
    expected = model.embed(viewer(events.filter(kept)), ["Is this shopper patient"])[0]
    np.testing.assert_array_equal(vectors_of(read_embeddings(tmp_path, less.date, "patient", users=[user])), expected)


def test_embeddings_do_not_change_slates(shop: SyntheticDataset, tmp_path: Path) -> None:
    plain = load(CONFIG, [f"data.root={shop.data_root}", f"output.root={tmp_path}"])
    assert context_of(shop, tmp_path).config.fingerprint == plain.fingerprint
    with pytest.raises(ConfigError, match="has no section for embeddings"):
        settings_of(RunContext(plain, shop.date))


def test_an_instruction_without_an_answer_needs_no_new_model(shop: SyntheticDataset, tmp_path: Path) -> None:
    run_context = context_of(shop, tmp_path)
    more = context_of(shop, tmp_path, "embeddings.instructions.brave={text: Is this shopper brave}")
    windows = context_of(shop, tmp_path, "embeddings.instructions.brave={text: Brave, answer: {kind: returns}}")
    assert model_fingerprint(more) == model_fingerprint(run_context)
    assert model_fingerprint(windows) != model_fingerprint(run_context)
    assert record_of(more).identity != record_of(run_context).identity
