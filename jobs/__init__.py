"""The jobs: thin entry points, as `rayrec X` and as `ray job submit -- python -m jobs.X`."""
