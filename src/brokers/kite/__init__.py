"""Zerodha Kite: orders and books over REST, hints and ticks over its stream.

What the broker or the network did is judged here, on what is known of each request; nothing of it leaks further in.
"""
