"""Where events come from: the scheduler, the market listener, broker order updates.

Sources append facts; they decide nothing.
"""
