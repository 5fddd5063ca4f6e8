"""All runs of a sweep: one after another, in several processes, on a cluster."""
