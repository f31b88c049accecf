"""``overnet run`` and ``overnet-run``: files, live video and pipes."""
