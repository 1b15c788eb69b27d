-- Write the halt latches as the log makes them, unless something was appended since.
--
-- KEYS: the epoch, the position, then the latches. ARGV: the epoch, the position, then what each latch is to hold,
-- '' for nothing. Answers {'Restored'}, {'Ahead', position} or {'WrongEpoch', epoch}.
if redis.replicate_commands then redis.replicate_commands() end
local call = redis.call
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'WrongEpoch', epoch} end
local position = tonumber(call('HGET', KEYS[2], 'position') or 0)
if position ~= tonumber(ARGV[2]) then return {'Ahead', position} end
for i = 3, #KEYS do
  if ARGV[i] == '' then call('DEL', KEYS[i]) else call('SET', KEYS[i], ARGV[i]) end
end
return {'Restored'}
