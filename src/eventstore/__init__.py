"""The log: envelope and codec, the one atomic append, reading, following, lanes, parking.

Nothing changes in bahi except by an append.
"""
