"""The benchmark: figures of the hot paths, from real servers, next to what they are compared with in the same run."""
