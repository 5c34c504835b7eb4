"""Instructions: the table, templates, facets of the catalogue, and simulated and generated instructions."""
