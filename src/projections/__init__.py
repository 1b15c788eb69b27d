"""Folds of the log: runtime, stop index, timers, order log, strategies.

The projector runs and rebuilds them; each can be dropped and made anew from the log.
"""
