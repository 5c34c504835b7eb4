"""The stages of a run, in order. `daily_run` calls them.

run_context.py         config, date, inputs and fingerprints of a run
interaction_ingest.py  events -> contract -> histories by shard
item_model_fitting.py  item models, as of the date and of earlier cutoffs
llm_tuning.py          the tuned LLM, as of the same cutoffs
blender_fitting.py     blenders, fitted on training examples of earlier cutoffs
scoring.py             one shard: denoise -> retrieve -> rerank
slate_commit.py        one shard: blend -> slates -> file and receipt
daily_run.py           all stages for one date, and the publication
worker_cache.py        what a process loads once for a run

Embeddings have their own run (embedding_run.py); erasure_run.py removes users.
"""
