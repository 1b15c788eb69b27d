"""Where ticks come from: the `Feed` port, a recording played back, and a simulated market.

A live market's feed (a broker's WebSocket) is one more implementation of the port.
"""
