-- Write a strategy's hashes as its events make them, unless somebody has appended since.
--
-- KEYS: the epoch, the strategy, the runtime, the timers, the set of its symbol, the set of its user.
-- ARGV[1] a msgpack map: epoch, version, member, strategy and runtime (flat lists of fields; runtime empty: none),
-- expire (seconds, absent: never), wake_at (absent: none), in_market, wrong (a version that the hash may have, and that
-- no event has, absent: none).
-- Answers {'Restored'}, {'Ahead', version} or {'WrongEpoch', epoch}.
if redis.replicate_commands then redis.replicate_commands() end
local call = redis.call
local q = cmsgpack.unpack(ARGV[1])
local epoch = call('GET', KEYS[1])
if epoch ~= q.epoch then return {'WrongEpoch', epoch} end
local version = tonumber(call('HGET', KEYS[2], 'version') or 0) or 0
if version > q.version and version ~= q.wrong then return {'Ahead', version} end

call('DEL', KEYS[2], KEYS[3])
call('HSET', KEYS[2], 'version', q.version, unpack(q.strategy))
if #q.runtime > 0 then
  call('HSET', KEYS[3], unpack(q.runtime))
  if q.expire then call('EXPIRE', KEYS[3], q.expire) end
end
if q.wake_at then call('ZADD', KEYS[4], q.wake_at, q.member) else call('ZREM', KEYS[4], q.member) end
if q.in_market then call('SADD', KEYS[5], q.member) else call('SREM', KEYS[5], q.member) end
call('SADD', KEYS[6], q.member)
return {'Restored'}
