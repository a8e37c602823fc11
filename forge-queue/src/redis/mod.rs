//! Queue and key-values on Redis, in the layout that Celery reads and writes.
