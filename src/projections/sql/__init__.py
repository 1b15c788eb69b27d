"""The projections that are read by SQL: strategies, order logs and the parked list.

Folds of the log, written in the transaction that archives their events; each may be dropped and made anew.
"""
