"""Generated and recorded markets, the virtual clock, the day runner, fault injection.

Runs the real engine on time and prices that we choose.
"""
