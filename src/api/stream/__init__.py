"""Server-Sent Events: what is archived, to whoever may see it, exactly once and in order, from any place on.

One reader per process and partition follows the archive; each stream takes what is for it, at its own pace.
"""
