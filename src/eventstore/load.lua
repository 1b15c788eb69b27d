-- A strategy as of one moment. KEYS: the strategy, the runtime, then strings (the halt latch, the foreign positions, the price).
local reply = {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
for i = 3, #KEYS do reply[i] = redis.call('GET', KEYS[i]) end
return reply
