-- Before every script. KEYS[1] is the prefix of all keys; ARGV[1] the time in ms, empty for the server's.
local P = KEYS[1]
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local READY, VTIME, BLOCKED, DUE = P .. 'forge:ready', P .. 'forge:vtime', P .. 'forge:blocked', P .. 'forge:due'
local LEASES, UNACKED, INDEX = P .. 'forge:leases', P .. 'unacked', P .. 'unacked_index'

local function of(tenant, what) return P .. 'forge:' .. tenant .. ':' .. what end

-- gives a tenant its turn: not before the queue's virtual time, so that who was idle has no credit
local function enter(tenant)
  if redis.call('ZSCORE', READY, tenant) or redis.call('HEXISTS', BLOCKED, tenant) == 1 then return end
  local own = tonumber(redis.call('HGET', VTIME, tenant) or 0)
  local queue = tonumber(redis.call('GET', P .. 'forge:v') or 0)
  redis.call('ZADD', READY, math.max(own, queue), tenant)
  redis.call('HDEL', VTIME, tenant)
end

-- puts a task where it waits for its time
local function delay(tenant, list, due, envelope)
  redis.call('ZADD', of(tenant, 'delayed'), due, list .. '\n' .. envelope)
  redis.call('ZADD', DUE, 'LT', due, tenant)
end

-- forgets a lease; whether it was still held
local function release(tenant, tag, field)
  if redis.call('HDEL', UNACKED, tag) == 0 then return false end
  redis.call('ZREM', INDEX, tag)
  redis.call('ZREM', LEASES, tag)
  redis.call('HDEL', of(tenant, 'run'), field)
  if redis.call('HGET', BLOCKED, tenant) == 'cap' then
    redis.call('HDEL', BLOCKED, tenant)
    enter(tenant)
  end
  return true
end
