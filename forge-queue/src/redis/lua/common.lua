-- Before every script. KEYS[1] is the prefix of all keys; ARGV[1] the time in ms, empty for the server's.
local P = KEYS[1]
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local READY, VTIME, BLOCKED, DUE = P .. 'forge:ready', P .. 'forge:vtime', P .. 'forge:blocked', P .. 'forge:due'
local LEASES, HELD, UNACKED, INDEX = P .. 'forge:leases', P .. 'forge:held', P .. 'unacked', P .. 'unacked_index'

-- before what must go on where no memory is left, or nothing would ever be freed: Redis refuses the first write of a script, and none after
-- one that it did not refuse
local function though_full() redis.call('DEL', P .. 'forge:none') end

local function of(tenant, what) return P .. 'forge:' .. tenant .. ':' .. what end

-- gives a tenant its turn: not before the queue's virtual time, so that who was idle has no credit
local function enter(tenant)
  if redis.call('ZSCORE', READY, tenant) or redis.call('HEXISTS', BLOCKED, tenant) == 1 then return end
  local own = tonumber(redis.call('HGET', VTIME, tenant) or 0)
  local queue = tonumber(redis.call('GET', P .. 'forge:v') or 0)
  redis.call('ZADD', READY, math.max(own, queue), tenant)
  redis.call('HDEL', VTIME, tenant)
end

-- a tenant that waited for a task of its own to end goes on
local function uncap(tenant)
  if redis.call('HGET', BLOCKED, tenant) ~= 'cap' then return end
  redis.call('HDEL', BLOCKED, tenant)
  enter(tenant)
end

-- puts a task where it waits for its time
local function delay(tenant, list, due, envelope)
  redis.call('ZADD', of(tenant, 'delayed'), due, list .. '\n' .. envelope)
  redis.call('ZADD', DUE, 'LT', due, tenant)
end

-- forgets a lease; whether it was still held
local function release(tenant, tag, field)
  if tag:sub(1, 1) == 'k' then
    if redis.call('HDEL', UNACKED, tag) == 0 then return false end
    redis.call('ZREM', INDEX, tag)
  elseif redis.call('HDEL', HELD, tag) == 0 then
    return false
  end
  redis.call('ZREM', LEASES, tag)
  redis.call('HDEL', of(tenant, 'run'), field)
  uncap(tenant)
  return true
end
