"""Measures what requests in words are understood as, on the catalogue alone: no users, no models but the encoder.

    python -m benchmarks.understanding --data movietweetings --root DIR [--requests FILE.yaml] [--item-texts]

FILE is as for `benchmarks.instruct_job`, which measures the whole job. Rankers: popularity, and popularity with the
match of the rules, of an encoder that compares requests with facet names alone (no descriptions), and of all as built;
`--item-texts`: cosine of the request with every item's text (slow). satisfied@10 is that of the first ten items of
a ranking of the whole catalogue; nonsense: the share of texts that mean nothing. And the encoder's speed on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.denoise_data import SOURCES, held_out
from benchmarks.instruct_job import BARS, Request, read_requests
from rayrec.instructions.facet_sentences import FacetSentences, load_facet_sentences
from rayrec.instructions.facets import Facets
from rayrec.instructions.request_understanding import RequestUnderstanding, categories
from rayrec.instructions.soft_facets import SoftFacets
from rayrec.instructions.title_search import TitleIndex
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s
from rayrec.pipeline.request_candidates import request_match
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

Ranker = Callable[[str], Float32s]  # request -> scores [items], without popularity
_NATS = 8.0
_OWN = Path(__file__).with_name("development_requests.yaml")


def table(
    requests: Sequence[Request], facets: Facets, titles: TitleIndex, rankers: dict[str, Ranker], popularity: Float32s
) -> None:
    print(f"\n{'ranker':<40}" + "".join(f"{kind:>18}" for kind in BARS))
    for name, rank in rankers.items():
        cells = []
        for kind in BARS:
            shares = []
            for request in requests:
                if request.kind != kind:
                    continue
                scores = rank(request.text)
                top = np.argsort(-(popularity + scores), kind="stable")[:10]
                silent = float(not scores.any())
                shares.append(silent if kind == "nonsense" else request.satisfied_share(facets, titles, top.tolist()))
            error = 1.96 * np.std(shares) / max(len(shares), 1) ** 0.5
            cells.append(f"{np.mean(shares):.3f} ±{error:.3f}" if shares else "")
        print(f"{name:<40}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SOURCES), required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--requests", default=str(_OWN))
    parser.add_argument("--item-texts", action="store_true")
    given = parser.parse_args()
    case, requests = held_out(given.data, given.root), read_requests(given.requests)
    facets, encoder = Facets.of(case.catalogue), SentenceEncoder.open("auto")
    item = Ragged.from_arrow(case.history["item"])
    popularity = np.log(np.bincount(item.values, minlength=case.items) + 0.2).astype(np.float32)
    titles = TitleIndex(case.catalogue["title"].to_pylist())
    whole = RequestUnderstanding.of(facets.scheme, encoder, titles=titles)
    known = load_facet_sentences(None, categories(facets.scheme))
    names = FacetSentences(known.request, known.facet, known.neutral, {}, known.synonyms)
    soft = SoftFacets.of(encoder.encode, facets.scheme, names)
    plain = RequestUnderstanding(facets.scheme, whole.matcher, soft, whole.spelling)

    def matched(understanding: RequestUnderstanding) -> Ranker:
        return lambda text: _NATS * request_match(facets, titles, understanding(text))

    rankers: dict[str, Ranker] = {
        "popularity": lambda text: np.zeros(case.items, np.float32),
        "rules": matched(RequestUnderstanding.of(facets.scheme)),
        "rules, encoder on names": matched(plain),
        "rules, encoder on names + descriptions": matched(whole),
    }
    if given.item_texts:
        columns = (case.catalogue[name].to_pylist() for name in ("title", "category"))
        vectors = encoder.encode([f"{title} ({category or ''})" for title, category in zip(*columns, strict=True)])
        rankers["encoder on item texts"] = lambda text: 100 * (vectors @ encoder.encode([text])[0])
    table(requests, facets, titles, rankers, popularity)
    texts = [request.text for request in requests]
    started = time.process_time()
    encoder.encode(texts)
    encoded = time.process_time()
    for text in texts:
        whole(text)
    one, all_parts = (1000 * spent / len(set(texts)) for spent in (encoded - started, time.process_time() - encoded))
    print(f"\nCPU-seconds per 1,000 texts: {one:.1f} encoded, {all_parts:.1f} understood, clause by clause")
    return 0


if __name__ == "__main__":
    sys.exit(main())
