-- The only way anything changes. All of it happens, or none of it: Redis does not roll a script back, so every check
-- comes before the first write.
--
-- KEYS[1] the epoch, KEYS[2] the position, then the keys of this batch, which the request names by their number.
-- ARGV[1] the request, a msgpack map; fields that do not apply are absent. ARGV[2] … the envelopes of its events.
--   epoch, now, group
--   seen      a position that the log reached before: it must not have become shorter
--   events    list of {stream, strategy?, runtime?, dedupe?, cases?, halt?}
--   dedupe    {key, digest, ttl} of the whole batch; an event may have its own
--   entry     key of the user's halt latch: the batch opens a position
--   strategy, runtime   the hashes of the strategy of `expected` and `write`
--   expected  version
--   permits   list of {key, limit, ttl, amount}
--   ack       {stream, id}
--   write     see batch.py, RuntimeWrite
-- Answers {result, …}, numbers wherever possible.
if redis.replicate_commands then redis.replicate_commands() end
local call = redis.call
local q = cmsgpack.unpack(ARGV[1])

-- Step 1: the log is the one that the caller knows, no shorter than it was, and its position not behind its streams.
local epoch = call('GET', KEYS[1])
if epoch ~= q.epoch then return {'WrongEpoch', epoch} end
local at = call('HMGET', KEYS[2], 'position', 'recorded_at')
if not at[1] or tonumber(at[1]) < q.seen then return {'WrongEpoch', false} end
local looked_at = {}
for _, event in ipairs(q.events) do
  local top = not looked_at[event.stream] and call('XREVRANGE', KEYS[event.stream], '+', '-', 'COUNT', 1)[1]
  if top and tonumber(string.match(top[1], '^%d+')) > tonumber(at[1]) then return {'WrongEpoch', false} end
  looked_at[event.stream] = true
end

-- Step 2: what is known already. A dedupe key holds `position:version,…|digest`.
local function known(dedupe)
  local kept = call('GET', KEYS[dedupe.key])
  if not kept then return nil end
  return string.match(kept, '^([^|]*)|(.*)$')
end

local function duplicate(places)
  if q.ack then call('XACK', KEYS[q.ack.stream], q.group, q.ack.id) end
  local reply = {'Duplicate'}
  for number in string.gmatch(places, '%d+') do reply[#reply + 1] = tonumber(number) end
  return reply
end

if q.dedupe then
  local places, digest = known(q.dedupe)
  if places and digest ~= q.dedupe.digest then return {'DedupeMismatch', q.dedupe.key, q.dedupe.digest, digest} end
  if places then return duplicate(places) end
end

local fresh, first = 0, {}
for i, event in ipairs(q.events) do
  local own = event.dedupe
  if own then
    local places, digest = known(own)
    local twin = first[own.key]
    if twin then digest = q.events[twin].dedupe.digest end
    if digest and digest ~= own.digest then return {'DedupeMismatch', own.key, own.digest, digest} end
    event.places, event.twin = places, twin
    if not places and not twin then first[own.key] = i end
  end
  if not event.places and not event.twin then fresh = fresh + 1 end
end
if fresh == 0 and #q.events > 0 then
  local places = {}
  for i, event in ipairs(q.events) do places[i] = event.places end
  return duplicate(table.concat(places, ','))
end

-- Step 1, second half. After step 2, so that an entry that is in the log is never answered as if it were not.
if q.entry and call('EXISTS', KEYS[q.entry]) == 1 then return {'Halted'} end

-- Step 3: nobody made progress since the caller looked.
if q.expected then
  local version = tonumber(call('HGET', KEYS[q.strategy], 'version') or 0)
  if version ~= q.expected then return {'Conflict', version} end
end

-- Step 4: there is room in every limit.
local used = {}
for i, permit in ipairs(q.permits or used) do
  local before = used[permit.key] or tonumber(call('GET', KEYS[permit.key]) or 0)
  if before + permit.amount > permit.limit then
    return {'NoPermit', i, before, math.max(call('PTTL', KEYS[permit.key]), 0)}
  end
  used[permit.key] = before + permit.amount
end

-- A version that is no number would end the script half-way: somebody has tampered with it.
for _, event in ipairs(q.events) do
  local version = event.strategy and call('HGET', KEYS[event.strategy], 'version')
  if version and not tonumber(version) then
    return redis.error_reply('CORRUPT the version of ' .. KEYS[event.strategy] .. ' is no number')
  end
end

-- Step 5: the wake-up is still to be done. The last check is the first write.
if q.ack and call('XACK', KEYS[q.ack.stream], q.group, q.ack.id) == 0 then return {'NotPending'} end

-- Step 6: write. Positions and versions are gapless, time never runs backwards.
local function satisfied(case, runtime)
  for _, condition in ipairs(case.when) do
    local value, holds = call('HGET', runtime, condition[1]) or '', false
    for _, allowed in ipairs(condition[2]) do holds = holds or value == allowed end
    if not holds then return false end
  end
  for _, condition in ipairs(case.positive) do
    local value = call('HGET', runtime, condition[1])
    if value and (tonumber(value) or 0) <= 0 or not value and not condition[2] then return false end
  end
  return true
end

local function blind(cases, runtime)
  if call('EXISTS', runtime) == 0 then return end
  for _, case in ipairs(cases) do
    if satisfied(case, runtime) then
      if #case.set > 0 then call('HSET', runtime, unpack(case.set)) end
      if #case.delete > 0 then call('HDEL', runtime, unpack(case.delete)) end
      return
    end
  end
end

local position, now = tonumber(at[1]), math.max(q.now, tonumber(at[2] or 0))
local stamp = string.format('%.0f', now)
local reply, all, last_of = {'Appended', now}, {}, {}
for i, event in ipairs(q.events) do
  local places = event.places or event.twin and all[event.twin]
  if not places then
    position = position + 1
    local version = event.strategy and call('HINCRBY', KEYS[event.strategy], 'version', 1) or 0
    call('XADD', KEYS[event.stream], position .. '-0', 'v', version, 't', stamp, 'e', ARGV[i + 1])
    if event.strategy then last_of[event.runtime] = position end
    if event.cases then blind(event.cases, KEYS[event.runtime]) end
    if event.halt and event.halt.value then call('SET', KEYS[event.halt.key], event.halt.value) end
    if event.halt and not event.halt.value then call('DEL', KEYS[event.halt.key]) end
    places = position .. ':' .. version
    if event.dedupe then
      call('SET', KEYS[event.dedupe.key], places .. '|' .. event.dedupe.digest, 'EX', event.dedupe.ttl)
    end
  end
  all[i] = places
  for number in string.gmatch(places, '%d+') do reply[#reply + 1] = tonumber(number) end
end
if fresh > 0 then call('HSET', KEYS[2], 'position', position, 'recorded_at', stamp) end
if q.dedupe then
  call('SET', KEYS[q.dedupe.key], table.concat(all, ',') .. '|' .. q.dedupe.digest, 'EX', q.dedupe.ttl)
end
for _, permit in ipairs(q.permits or {}) do
  if call('INCRBY', KEYS[permit.key], permit.amount) == permit.amount then call('EXPIRE', KEYS[permit.key], permit.ttl) end
end

local write = q.write
if write then
  local strategy, runtime = KEYS[q.strategy], KEYS[q.runtime]
  if write.replace then call('DEL', runtime) end
  if write.strategy_set then call('HSET', strategy, unpack(write.strategy_set)) end
  if write.strategy_delete then call('HDEL', strategy, unpack(write.strategy_delete)) end
  if write.runtime_set then call('HSET', runtime, unpack(write.runtime_set)) end
  if write.runtime_delete then call('HDEL', runtime, unpack(write.runtime_delete)) end
  if write.expire then call('EXPIRE', runtime, write.expire) else call('PERSIST', runtime) end
  if write.wake_at then call('ZADD', KEYS[write.timers], write.wake_at, write.member) end
  if write.wake_at == false then call('ZREM', KEYS[write.timers], write.member) end
  if write.symbol_remove then call('SREM', KEYS[write.symbol_remove], write.member) end
  if write.symbol_add then call('SADD', KEYS[write.symbol_add], write.member) end
  if write.user_add then call('SADD', KEYS[write.user_add], write.member) end
end
for runtime, seen in pairs(last_of) do
  if call('EXISTS', KEYS[runtime]) == 1 then
    call('HSET', KEYS[runtime], 'updated_at', stamp, 'position_in_log', seen)
  end
end
return reply
