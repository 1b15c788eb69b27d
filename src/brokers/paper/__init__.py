"""The paper broker: a broker of our own with a persistent order book, the market's prices, and faults on demand.

Its book outlives every process, as a real broker's does.
"""
