"""The config explained: its JSON schema for editors, and the reference of all keys and methods for readers.

python -m rayrec.config --schema > rayrec.schema.json
python -m rayrec.config --reference > docs/config.md
"""

from __future__ import annotations

import json
import sys

from rayrec import denoising, retrieval, slates
from rayrec.config.reference import Family, reference
from rayrec.config.schema import json_schema
from rayrec.reranking import ways

FAMILIES = (
    Family("Denoising methods", "denoise.method", "denoise.settings", denoising.METHODS),
    Family("Retrievers", "retrieval.sources.NAME.kind", "retrieval.sources.NAME", retrieval.RETRIEVERS),
    Family("Ways of reading titles", "rerank.method", "rerank.settings", ways.WAYS),
    Family("Slate policies", "slate.policy", "slate.settings", slates.POLICIES),
    Family("Methods of diversity", "slate.diversify.method", "slate.diversify.settings", slates.METHODS),
)


def main(arguments: list[str]) -> None:
    if arguments == ["--schema"]:
        print(json.dumps(json_schema(), indent=2))
    elif arguments == ["--reference"]:
        print(reference(FAMILIES), end="")
    else:
        sys.exit("usage: python -m rayrec.config --schema | --reference")


if __name__ == "__main__":
    main(sys.argv[1:])
