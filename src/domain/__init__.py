"""Events, values, the strategy's state, and the decisions made from it.

Pure: no I/O, no clock, no randomness.
"""
