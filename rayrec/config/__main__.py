"""`python -m rayrec.config --schema`: the JSON schema of a config, for editors."""

from __future__ import annotations

import json
import sys

from rayrec.config import Config

if sys.argv[1:] != ["--schema"]:
    sys.exit("usage: python -m rayrec.config --schema")
print(json.dumps(Config.model_json_schema(), indent=2))
