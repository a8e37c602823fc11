-- Takes tasks that are due and records who has them, in one step, so that none is lost between.
-- ARGV: now, most tasks, length of a lease in ms, n, n times tenant and queue: the queues that are bound to a tenant; most tasks of each
-- tenant or '', n, n times tenant and most tasks of it; then the tenants that may have something because others push to their lists.
-- Gives now, ms until something is due or -1, expired leases (tag, message), leases (tag, queue, message, '1' for one that has ended
-- before), and the tenants that have nothing more.
local most, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
local STEPS = { '', '\6\0223', '\6\0226', '\6\0229' }
local queues, at = {}, 5
for _ = 1, tonumber(ARGV[4]) do
  local tenant, queue = ARGV[at], ARGV[at + 1]
  queues[tenant] = queues[tenant] or { tenant .. '.default' }
  table.insert(queues[tenant], queue)
  at = at + 2
end
local each, room = tonumber(ARGV[at]), {}
for _ = 1, tonumber(ARGV[at + 1]) do
  room[ARGV[at + 2]] = tonumber(ARGV[at + 3])
  at = at + 2
end
for i = at + 2, #ARGV do enter(ARGV[i]) end

-- what waited for its time goes to the front: it waited longest
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 64)) do
  local delayed = of(tenant, 'delayed')
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 64)
  for i = #due, 1, -1 do
    local cut = due[i]:find('\n', 1, true)
    redis.call('RPUSH', P .. due[i]:sub(1, cut - 1), due[i]:sub(cut + 1))
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
  local held = redis.call('HGET', UNACKED, tag)
  if held then
    expired[#expired + 1] = tag
    expired[#expired + 1] = held
    redis.call('ZADD', LEASES, now + 5000, tag)
  else
    -- a worker of Celery gave it back to the queue
    redis.call('ZREM', LEASES, tag)
    local tenant, field = tag:match('^f:%d+:([^:]+):(.+)$')
    if tenant then redis.call('HDEL', of(tenant, 'run'), field == '-' and tag or field) end
  end
end

local leases, drained, runs = {}, {}, {}
local unacked, index, deadlines = {}, {}, {}
local taken, fence = 0, tonumber(redis.call('GET', P .. 'forge:fence') or 0)
local vtime = tonumber(redis.call('GET', P .. 'forge:v') or 0)
-- one in eight begins at the lowest priority, so that it is never starved
local turn = redis.call('INCR', P .. 'forge:turn')
local quantum = 1
if redis.call('ZCARD', READY) == 1 then quantum = most elseif most >= 16 then quantum = 8 end

local function take(tenant, budget)
  local lists = queues[tenant] or { tenant .. '.default' }
  local got = 0
  for q = 1, #lists do
    local queue = lists[(q + turn) % #lists + 1]
    for s = 1, 4 do
      if got >= budget then return got end
      local step = STEPS[turn % 8 == 0 and 5 - s or s]
      local popped = redis.call('RPOP', P .. queue .. step, budget - got)
      if popped then
        got = got + #popped
        local ids, records = {}, {}
        for i, message in ipairs(popped) do
          -- a message of Forge's begins with its id; see FORGE_PREFIX
          if message:sub(1, 11) == '{"forge": "' then ids[i] = message:sub(12, 47) end
          records[i] = of(tenant, 'task:' .. (ids[i] or ''))
        end
        records = redis.call('MGET', unpack(records))
        for i, message in ipairs(popped) do
          local state = records[i] and records[i]:sub(1, 1)
          if state ~= 'C' then
            taken, fence = taken + 1, fence + 1
            local tag = 'f:' .. fence .. ':' .. tenant .. ':' .. (ids[i] or '-')
            leases[#leases + 1] = tag
            leases[#leases + 1] = queue
            leases[#leases + 1] = message
            leases[#leases + 1] = (state == 'S' or state == 'D') and '1' or ''
            unacked[#unacked + 1] = tag
            unacked[#unacked + 1] = '[' .. message .. ', "", "' .. queue .. '"]'
            index[#index + 1] = now / 1000
            index[#index + 1] = tag
            deadlines[#deadlines + 1] = now + lease
            deadlines[#deadlines + 1] = tag
            local run = runs[tenant] or {}
            runs[tenant] = run
            run[#run + 1] = ids[i] or tag
            run[#run + 1] = tag
          end
        end
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
  redis.call('SET', P .. 'forge:fence', fence)
  redis.call('SET', P .. 'forge:v', vtime)
  redis.call('HSET', UNACKED, unpack(unacked))
  redis.call('ZADD', INDEX, unpack(index))
  redis.call('ZADD', LEASES, unpack(deadlines))
  for tenant, run in pairs(runs) do redis.call('HSET', of(tenant, 'run'), unpack(run)) end
end

local soonest = -1
for _, times in ipairs({ DUE, THROTTLED, LEASES }) do
  local head = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')
  if head[1] then
    local left = math.max(0, math.floor(head[2] - now))
    if soonest < 0 or left < soonest then soonest = left end
  end
end
return { now, soonest, expired, leases, drained }
