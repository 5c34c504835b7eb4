"""The config explained: its JSON schema for editors, and the reference of all keys and methods for readers.

python -m rayrec.config --schema > rayrec.schema.json
python -m rayrec.config --reference > docs/config.md
"""

from __future__ import annotations

import json
import sys

from rayrec import denoising, retrieval, slates
from rayrec.config.config_reference import MethodFamily, reference
from rayrec.config.json_schema import json_schema
from rayrec.reranking import text

FAMILIES = (
    MethodFamily("Denoising methods", "denoise.method", "denoise.settings", denoising.DENOISERS),
    MethodFamily("Retrievers", "retrieval.sources.NAME.kind", "retrieval.sources.NAME", retrieval.RETRIEVERS),
    MethodFamily("Ways of reading titles", "rerank.method", "rerank.settings", text.TEXT_SCORERS),
    MethodFamily("Slate policies", "slate.policy", "slate.settings", slates.POLICIES),
    MethodFamily("Methods of diversity", "slate.diversity.method", "slate.diversity.settings", slates.DIVERSIFIERS),
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
