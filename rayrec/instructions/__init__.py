"""Instructions in words: the table, templates, facets of the catalogue, simulated and generated instructions."""
