"""Load, decide, append, then the effect: the one way an event becomes an order.

Also outcomes, reconciliation, and the worker that runs them.
"""
