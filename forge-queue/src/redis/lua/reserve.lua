-- Takes tasks that are due and records who has them, in one step, so that none is lost between.
-- ARGV: now, most tasks, length of a lease in ms, who takes them, n, n times tenant and queue: the queues that are bound to a tenant; most
-- tasks of each tenant or '', n, n times tenant and most tasks of it; then the tenants that may have something because others push to
-- their lists.
-- Gives now, ms until something is due or -1, expired leases (tag, message), the number of this call, what was taken (of each list: tenant,
-- queue, how many were taken before, messages, which of them, from 1, are not open, and 1 where kombu has the lease), and the tenants that
-- have nothing more.
though_full()
local most, lease, who = tonumber(ARGV[2]), tonumber(ARGV[3]), ':' .. ARGV[4]
local STEPS = { '', '\6\0223', '\6\0226', '\6\0229' }
local queues, shared, at = {}, {}, 6
for _ = 1, tonumber(ARGV[5]) do
  local tenant, queue = ARGV[at], ARGV[at + 1]
  local own = tenant .. '.default'
  queues[tenant] = queues[tenant] or { own }
  if queue ~= own then table.insert(queues[tenant], queue) end
  shared[queue] = true
  at = at + 2
end
local each, room = tonumber(ARGV[at]), {}
for _ = 1, tonumber(ARGV[at + 1]) do
  room[ARGV[at + 2]] = tonumber(ARGV[at + 3])
  at = at + 2
end
for i = at + 2, #ARGV do enter(ARGV[i]) end

-- what waited for its time goes to the front: it waited longest. What this worker had no handler for ('!') goes there in the end: a worker
-- of Celery that waits for its queue gets it before anybody here can take it again
local others = {}
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 64)) do
  local delayed = of(tenant, 'delayed')
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 64)
  for i = #due, 1, -1 do
    local cut = due[i]:find('\n', 1, true)
    local list, message = due[i]:sub(1, cut - 1), due[i]:sub(cut + 1)
    if list:sub(1, 1) == '!' then
      others[#others + 1] = { tenant, list:sub(2), message }
    else
      redis.call('RPUSH', P .. list, message)
    end
  end
  if #due > 0 then redis.call('ZREM', delayed, unpack(due)) end
  local following = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if following[1] then redis.call('ZADD', DUE, following[2], tenant) else redis.call('ZREM', DUE, tenant) end
  enter(tenant)
end
local THROTTLED = P .. 'forge:throttled'
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', THROTTLED, '-inf', now, 'LIMIT', 0, 64)) do
  redis.call('ZREM', THROTTLED, tenant)
  if redis.call('HGET', BLOCKED, tenant) == 'rate' then redis.call('HDEL', BLOCKED, tenant) end
  enter(tenant)
end

-- each is given to one caller, who puts it back with its tries counted; another looks after five seconds
local expired = {}
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 64)) do
  local held = redis.call('HGET', tag:sub(1, 1) == 'k' and UNACKED or HELD, tag)
  if held then
    expired[#expired + 1] = tag
    expired[#expired + 1] = held
    redis.call('ZADD', LEASES, now + 5000, tag)
  else
    -- a worker of Celery gave it back to the queue
    redis.call('ZREM', LEASES, tag)
    local tenant, id = tag:match('^k:[^:]+:([^:]+):([^:]+):')
    if tenant then redis.call('HDEL', of(tenant, 'run'), id == '-' and tag or id) end
  end
end

local chunks, drained, runs = {}, {}, {}
local held, unacked, index, deadlines = {}, {}, {}, {}
local taken = 0
-- the number of a call is a fence: it goes by the time as well, so that it rises also after a failover or a crash that lost the last ones;
-- its remainder by eight counts the calls
local last = tonumber(redis.call('GET', P .. 'forge:fence') or 0)
local call = math.max(last + 1, now * 8 + (last + 1) % 8)
local call_text = string.format('%.0f', call)
redis.call('SET', P .. 'forge:fence', call_text)
local vtime = tonumber(redis.call('GET', P .. 'forge:v') or 0)
local quantum = 1
if redis.call('ZCARD', READY) == 1 then quantum = most elseif most >= 16 then quantum = 8 end
-- written once: numbers are dear to turn into text
local since, until_ = string.format('%.3f', now / 1000), string.format('%d', now + lease)

-- which of these are not tasks of ours that are open
local function closed(tenant, ids)
  local found = {}
  local records = redis.call('HMGET', of(tenant, 'open'), unpack(ids))
  for i = 1, #ids do
    if not records[i] then found[#found + 1] = i end
  end
  return found
end

-- a character for each task of a call, none of which stands between the parts of a tag
local PLACES = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

local function record(tenant, queue, messages)
  local kind = shared[queue] and 'k:' or 'f:'
  local run = runs[tenant] or {}
  runs[tenant] = run
  local first, rest = kind .. call_text .. '.', ':' .. tenant .. ':'
  local ids = {}
  for i, message in ipairs(messages) do
    -- a message of Forge's begins with its id; see FORGE_PREFIX
    local id = message:match('^{"forge": "(%x+%-%x+%-%x+%-%x+%-%x+)", "body": "') or '-'
    ids[i] = id
    -- the same task may be there twice
    taken = taken + 1
    local tag = first .. PLACES:sub(taken, taken) .. rest .. id .. who
    if shared[queue] then
      unacked[#unacked + 1] = tag
      unacked[#unacked + 1] = '[' .. message .. ', "", "' .. queue .. '"]'
      index[#index + 1] = since
      index[#index + 1] = tag
    else
      held[#held + 1] = tag
      held[#held + 1] = message
    end
    deadlines[#deadlines + 1] = until_
    deadlines[#deadlines + 1] = tag
    run[#run + 1] = id == '-' and tag or id
    run[#run + 1] = tag
  end
  return ids
end

local function take(tenant, budget)
  local lists = queues[tenant] or { tenant .. '.default' }
  local got = 0
  for q = 1, #lists do
    local queue = lists[(q + call) % #lists + 1]
    for s = 1, 4 do
      if got >= budget then return got end
      -- one call in eight begins at the lowest priority, so that it is never starved
      local messages = redis.call('RPOP', P .. queue .. STEPS[call % 8 == 0 and 5 - s or s], budget - got)
      if messages then
        got = got + #messages
        local before = taken
        local ids = record(tenant, queue, messages)
        chunks[#chunks + 1] = { tenant, queue, before, messages, closed(tenant, ids), shared[queue] and 1 or 0 }
      end
    end
  end
  return got
end

local function block(tenant, why)
  redis.call('ZREM', READY, tenant)
  redis.call('HSET', BLOCKED, tenant, why)
end

local function serve(tenant, turn_at, free)
  local start = math.max(turn_at, vtime)
  vtime = start
  local config = of(tenant, 'config')
  local set = redis.call('HMGET', config, 'weight', 'cap', 'rate', 'burst', 'paused', 'tokens', 'at')
  local weight, cap, rate = tonumber(set[1]) or 1, tonumber(set[2]), tonumber(set[3])
  local budget, why, tokens = math.min(math.max(1, math.floor(quantum * weight)), most - taken), nil, nil
  if free then budget = math.min(budget, free) end
  if cap then
    budget = math.min(budget, cap - redis.call('HLEN', of(tenant, 'run')) - (runs[tenant] and #runs[tenant] / 2 or 0))
    if budget <= 0 then why = 'cap' end
  end
  if rate then
    local burst = tonumber(set[4]) or math.max(1, rate)
    tokens = math.min(burst, (tonumber(set[6]) or burst) + math.max(0, now - (tonumber(set[7]) or now)) * rate / 1000)
    if tokens < 1 and not why then
      why = 'rate'
      redis.call('ZADD', THROTTLED, now + math.ceil((1 - tokens) * 1000 / rate), tenant)
    end
    budget = math.min(budget, math.floor(tokens))
  end
  if set[5] == '1' then why = 'paused' end
  if why then
    block(tenant, why)
    redis.call('HSET', VTIME, tenant, start)
  else
    local got = take(tenant, budget)
    if tokens then redis.call('HSET', config, 'tokens', tokens - got, 'at', now) end
    local finish = start + got / weight
    if got < budget then
      redis.call('ZREM', READY, tenant)
      redis.call('HSET', VTIME, tenant, finish)
      drained[#drained + 1] = tenant
    else
      redis.call('ZADD', READY, finish, tenant)
    end
  end
end

-- tenants that the worker has no room for keep their turn
local passed = {}
while taken < most do
  local head = redis.call('ZRANGE', READY, 0, 0, 'WITHSCORES')
  local tenant = head[1]
  if not tenant then break end
  local free = room[tenant] or each
  if free then free = free - (runs[tenant] and #runs[tenant] / 2 or 0) end
  if free and free <= 0 then
    redis.call('ZREM', READY, tenant)
    passed[#passed + 1] = head[2]
    passed[#passed + 1] = tenant
  else
    serve(tenant, tonumber(head[2]), free)
  end
end
if #passed > 0 then redis.call('ZADD', READY, unpack(passed)) end

if taken > 0 then
  redis.call('SET', P .. 'forge:v', vtime)
  if #held > 0 then redis.call('HSET', HELD, unpack(held)) end
  if #unacked > 0 then
    redis.call('HSET', UNACKED, unpack(unacked))
    redis.call('ZADD', INDEX, unpack(index))
  end
  redis.call('ZADD', LEASES, unpack(deadlines))
  for tenant, run in pairs(runs) do redis.call('HSET', of(tenant, 'run'), unpack(run)) end
end

for _, other in ipairs(others) do
  redis.call('RPUSH', P .. other[2], other[3])
  enter(other[1])
end

local soonest = -1
for _, times in ipairs({ DUE, THROTTLED, LEASES }) do
  local head = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')
  if head[1] then
    local left = math.max(0, math.floor(head[2] - now))
    if soonest < 0 or left < soonest then soonest = left end
  end
end
return { now, soonest, expired, call, chunks, drained }
