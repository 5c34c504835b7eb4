"""Print the JSON schema of the config, or the reference of all keys and methods.

python -m rayrec.config --schema > rayrec.schema.json
python -m rayrec.config --reference > docs/config.md
"""

from __future__ import annotations

import json
import sys

from rayrec.config.json_schema import json_schema
from rayrec.config.reference import reference


def main(arguments: list[str]) -> None:
    if arguments == ["--schema"]:
        print(json.dumps(json_schema(), indent=2))
    elif arguments == ["--reference"]:
        print(reference(), end="")
    else:
        sys.exit("usage: python -m rayrec.config --schema | --reference")


if __name__ == "__main__":
    main(sys.argv[1:])
