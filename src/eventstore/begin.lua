-- The epoch that was prepared begins: all of it or nothing, and only if nobody else has begun to restore since. Whoever
-- was on the log before has to join it anew, and what was doubted of it is settled.
--
-- KEYS: the epoch, the lineage, the log id, the members, doubted. ARGV: the fence, the new epoch, its log id, then the lineage.
-- Answers {'Begun'} or {'WrongEpoch', epoch}.
if redis.replicate_commands then redis.replicate_commands() end
local call = redis.call
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'WrongEpoch', epoch} end
call('DEL', KEYS[2])
for i = 4, #ARGV do call('RPUSH', KEYS[2], ARGV[i]) end
call('SET', KEYS[3], ARGV[3])
call('DEL', KEYS[4], KEYS[5])
call('SET', KEYS[1], ARGV[2])
return {'Begun'}
