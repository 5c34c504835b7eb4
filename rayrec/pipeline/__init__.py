"""The stages of a run, in order. `daily_run` reads as the story of all of them.

run_context.py         what a run is: config, date, inputs, fingerprints
interaction_ingest.py  events -> contract -> histories by shard
item_model_fitting.py  item models, as of the date and of earlier cutoffs
llm_tuning.py          the tuned LLM, as of the same
blender_fitting.py     blenders, fitted on training examples of earlier cutoffs
scoring.py             one shard: denoise -> retrieve -> rerank
slate_commit.py        one shard: blend -> slates -> file and receipt
daily_run.py           all of it for one date, and the publication
worker_cache.py        what a process loads once for a run

Embeddings have a run of their own (embedding_run.py); erasure_run.py removes users.
"""
