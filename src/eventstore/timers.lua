-- Claim what is due: each claimed member is moved ahead, so that nobody else claims it meanwhile, and it comes up
-- again if its claimer dies. KEYS[1] the timers; ARGV: now, limit, when claimed ones are due again.
if redis.replicate_commands then redis.replicate_commands() end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do redis.call('ZADD', KEYS[1], 'XX', ARGV[3], member) end
return due
