-- One process's word on whether the log is whole, and what the words of all of them come to.
--
-- A server's life begins with its start and has a run id. `server` names the life in which the log is vouched for. After
-- a restart it names the one before, until every member has found in the new one all that it knew of the log. Whatever
-- is left of a file that lost its end was true at one moment, so who is a member there was one when the end was written.
--
-- KEYS[1] the epoch, [2] the position, [3] server, [4] doubted, [5] the members.
-- ARGV[1] what is said: join, look, doubt (a look that waits no longer for the others), leave
-- ARGV[2] the member's name, [3] its token, [4] its epoch, [5] a position that it saw, [6] the server's life in which it
-- did (the empty string: whichever), [7] the newest round that it knows
-- ARGV[8] milliseconds after which a member says again that it lives, [9] after which one that did not counts as gone
--
-- The members are a hash: name → `token|run id|round|milliseconds`; the field `#` counts the rounds. A round begins when
-- somebody joins; whoever knows of it knows when a joining was lost.
-- Answers {'Lost', epoch}, {'Doubted', why, …}, {'Waiting', run id, name, …}, or {'Whole' | 'Vouched', position, run id,
-- round, how many others have not heard of that round}.
if redis.replicate_commands then redis.replicate_commands() end
local call = redis.call
local said, name, token = ARGV[1], ARGV[2], ARGV[3]
local seen, life, round = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local info = call('INFO', 'server')
local run = string.match(info, 'run_id:(%w+)')
local uptime = tonumber(string.match(info, 'uptime_in_seconds:(%d+)')) * 1000
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Step 1: is it this member's log at all?
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[4] then return {'Lost', epoch} end
local server = call('GET', KEYS[3])
local own_token, own_life, own_round, own_beat
local others = {}
local current = 0
local fields = call('HGETALL', KEYS[5])
for i = 1, #fields, 2 do
  if fields[i] == '#' then
    current = tonumber(fields[i + 1])
  else
    local itsToken, itsLife, itsRound, itsBeat = string.match(fields[i + 1], '^(%w*)|(%w*)|(%d+)|(%d+)$')
    if fields[i] == name then
      own_token, own_life, own_round, own_beat = itsToken, itsLife, tonumber(itsRound), tonumber(itsBeat)
    else
      others[#others + 1] = {fields[i], itsLife, tonumber(itsRound), tonumber(itsBeat)}
    end
  end
end

if said == 'leave' then
  if own_token == token then call('HDEL', KEYS[5], name) end
  return {'Whole', 0, run, current, 0}
end

local function write()
  call('HSET', KEYS[5], name, string.format('%s|%s|%d|%.0f', token, run, current, now))
end

local function doubt(why, ...)
  call('SET', KEYS[4], run)
  return {'Doubted', why, ...}
end

-- Step 2: is anything missing of what this member knows, or any other?
if call('GET', KEYS[4]) == run then return {'Doubted', 'a process knows of more'} end
local at = call('HGET', KEYS[2], 'position')
if not at or tonumber(at) < seen then return doubt('shorter', seen, at or 'none') end
if current < round then return doubt('a process is forgotten that had joined') end
if said == 'join' then
  if (life ~= '' and life ~= run) or (server and server ~= run) then -- it has done nothing yet: it opens the log anew
    return {'Doubted', 'before this process had joined'}
  end
  if not server then call('SET', KEYS[3], run) end
  current = call('HINCRBY', KEYS[5], '#', 1)
  write()
  own_token = token
elseif own_token ~= token then
  if life ~= run then return doubt('this process had joined and is forgotten') end
  current = call('HINCRBY', KEYS[5], '#', 1) -- it was silent for so long that it counted as gone
  write()
end

-- Step 3: after a restart, does everybody say so? Without `server` the one before was stopped in good order.
if server and server ~= run then
  if own_life ~= run or own_round ~= current then write() end
  local missing = {}
  for _, other in ipairs(others) do
    if other[2] ~= run then missing[#missing + 1] = other[1] end
  end
  if #missing > 0 then
    table.sort(missing)
    if said == 'doubt' then return doubt('no answer from', unpack(missing)) end
    return {'Waiting', run, unpack(missing)}
  end
  call('SET', KEYS[3], run)
  return {'Vouched', tonumber(at), run, current, 0}
end
if not server and life ~= '' and life ~= run then call('SET', KEYS[3], run) end

-- Step 4: an ordinary day. Whoever was silent for too long is gone: all that it saw is in the log.
if own_life ~= run or own_round ~= current or now - (own_beat or 0) >= tonumber(ARGV[8]) then write() end
local unaware = 0
for _, other in ipairs(others) do
  if math.min(now - other[4], uptime) > tonumber(ARGV[9]) then
    call('HDEL', KEYS[5], other[1])
  elseif other[3] < current then
    unaware = unaware + 1
  end
end
return {'Whole', tonumber(at), run, current, unaware}
