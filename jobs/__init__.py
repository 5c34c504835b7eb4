"""Jobs: thin entry points, run as `rayrec X` or `ray job submit -- python -m jobs.X`."""
