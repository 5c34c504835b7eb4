"""Measures attributes extracted from titles (`jobs.teach --attributes`) where the truth is known: genres of films.

    python -m benchmarks.attributes --root DIR --check

The genres are hidden. The schema has them as values of one attribute, each with the descriptions of
rayrec/instructions/facet_sentences.yaml. Titles lose their year. Micro-averaged precision and recall over (film, genre)
pairs, and the share of films with any answer, by the encoder at several margins, by words alone, and by two controls:
the most frequent genre for every film, and as many genres as the film has drawn by frequency.

Bar: at some margin the encoder is more precise than the most frequent genre while it answers for half of the films.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date

import numpy as np

from benchmarks.denoise_data import read_until
from benchmarks.quality import CONF
from rayrec.config import load
from rayrec.instructions.attribute_extraction import AttributeExtractor, ExtractedAttribute
from rayrec.instructions.facet_sentences import load_facet_sentences
from rayrec.numerics.types import Float32s
from rayrec.text_encoding.sentence_encoder import SentenceEncoder


class OnceEncoder(SentenceEncoder):
    """Encodes each text once for all margins."""

    def encode(self, texts: Sequence[str]) -> Float32s:
        known: dict[str, Float32s] = self.__dict__.setdefault("known", {})
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, super().encode(new), strict=True))
        return np.stack([known[text] for text in texts])


MARGINS = (0.05, 0.1, 0.15, 0.2, 0.3)
Answers = list[set[str]]


def scores(found: Answers, truth: Answers) -> tuple[float, float, float]:
    """Precision, recall, and the share of films with an answer."""
    right = sum(len(one & other) for one, other in zip(found, truth, strict=True))
    return (
        right / max(sum(map(len, found)), 1),
        right / max(sum(map(len, truth)), 1),
        sum(bool(one) for one in found) / len(found),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--films", type=int, default=1500)
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    config = load(CONF / "movietweetings.yaml", [f"data.root={given.root}", "data.shards=1", "data.window_days=4000"])
    items, _ = read_until(config, date(2013, 8, 25))
    rng = np.random.default_rng(0)
    pairs = zip(items["title"].to_pylist(), items["category"].to_pylist(), strict=True)
    known = [(title.rpartition(" (")[0] or title, set(genres.split("|"))) for title, genres in pairs if genres]
    known = [known[at] for at in rng.choice(len(known), min(given.films, len(known)), replace=False)]
    titles, truth = [title for title, _ in known], [{genre.lower() for genre in genres} for _, genres in known]
    frequency = Counter(genre for genres in truth for genre in genres)
    descriptions = load_facet_sentences(None, list(frequency)).descriptions
    values = {genre: list(descriptions.get(genre, ())) for genre in sorted(frequency)}
    encoder, started = OnceEncoder.open("auto"), time.perf_counter()
    encoder.encode(titles[:200])
    each = (time.perf_counter() - started) / 200
    print(f"{len(titles):,} films, {len(values)} genres, {1000 * each:.1f} s per 1,000 titles")
    rows: dict[str, tuple[float, float, float]] = {}
    for name, margin, used in (*((f"encoder, margin {m:g}", m, encoder) for m in MARGINS), ("words alone", 2.0, None)):
        attribute = ExtractedAttribute(values=values, most=2, min_margin=margin)
        found = AttributeExtractor({"genre": attribute}, used).extract(titles)["genre"]
        rows[name] = scores([set(row) for row in found], truth)
    genres, weights = list(frequency), np.array(list(frequency.values())) / sum(frequency.values())
    rows["most frequent"] = scores([{frequency.most_common(1)[0][0]}] * len(truth), truth)
    drawn = [set(rng.choice(genres, min(len(own), len(genres)), replace=False, p=weights).tolist()) for own in truth]
    rows["by frequency"] = scores(drawn, truth)
    for name, (precision, recall, answered) in rows.items():
        print(f"  {name:22} precision {precision:.3f}  recall {recall:.3f}  answered {answered:.1%}")
    bar = rows["most frequent"][0]
    met = any(rows[f"encoder, margin {m:g}"][0] > bar and rows[f"encoder, margin {m:g}"][2] >= 0.5 for m in MARGINS)
    print(f"more precise than the most frequent genre for half of the films: {'met' if met else 'NOT MET'}")
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
