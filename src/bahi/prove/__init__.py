"""Proof with the real thing: processes that are killed and stopped, connections that lose replies, files that are cut.

Each part is a function of a seed or an index, so that whatever it finds can be repeated.
"""
