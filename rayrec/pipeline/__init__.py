"""The stages in order. Each module is one step of the night; `daily` reads as the story of all of them.

day.py       what a run is: config, date, where its files lie, its identity
ingest.py    events in: contract, quarantine, shards, histories
learn.py     item model, LLM, blend: artefacts by fingerprint
score.py     denoise -> retrieve -> rerank -> order -> commit, one shard after another
daily.py     all of it for one date, and publication
carry.py     how Ray Data carries a stage
"""
