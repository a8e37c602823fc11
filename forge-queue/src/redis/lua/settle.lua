-- Ends leases. ARGV: now, then of each: tag, tenant, field in the run hash, id, record, result key, result, seconds that the result stays,
-- '1' if another tenant's result is not to be written over, how it goes on, four words for that, until when in ms the end of the task is
-- remembered or '', n, and n times five words.
-- How it goes on: 'end'; 'front' and 'back' (list, envelope); 'later' (list, envelope, ms); 'dead' (id, letter, most letters, ms that they
-- stay). A record that is not empty becomes that of a task of ours that is open; 'end' and 'dead' without one
-- close it.
-- What goes with it, five words each: 'push' (list, envelope, id, record); 'result' (key, result, seconds that it stays); 'begin' a chord
-- (base of its keys, size, seconds, structure); 'complete' one (base, claim).
-- Gives 1 for each that was held, 0 for the others, which are left as they are.
local function is_free(key, tenant)
  local there = redis.call('GET', P .. key)
  if not there then return true, true end
  return not there:find('"forge": "', 1, true) or there:find('"forge": "' .. tenant .. '"', 1, true),
    there:sub(1, 20) ~= '{"status": "SUCCESS"'
end

local function store(key, result, stays)
  redis.call('SET', P .. key, result, 'EX', stays)
  redis.call('PUBLISH', P .. key, result)
end

local also = {}
function also.push(tenant, list, envelope, id, record)
  if id ~= '' then
    -- a task of ours is sent once, also if its parent is run once more
    if redis.call('ZSCORE', of(tenant, 'ended'), id) then return end
    if redis.call('HSETNX', of(tenant, 'open'), id, record) == 0 then return end
  end
  redis.call('LPUSH', P .. list, envelope)
end
function also.result(tenant, key, result, stays)
  local mine, open = is_free(key, tenant)
  if mine and open then store(key, result, stays) end
end
function also.begin(tenant, base, size, stays, structure)
  local owner, keys = P .. 'forge:chord:' .. base, P .. base
  redis.call('SET', owner, tenant, 'EX', stays, 'NX')
  if redis.call('GET', owner) ~= tenant then return end
  redis.call('DEL', keys .. '.c')
  redis.call('SET', keys .. '.s', size, 'EX', stays)
  if structure ~= '' then redis.call('SET', keys, structure, 'EX', stays) end
end
-- false for a claim that is another's now: it sends the body
function also.complete(_, base, claim)
  base = P .. base
  local claimed = redis.call('GET', base .. '.c')
  if claimed ~= claim and (claimed or redis.call('EXISTS', base .. '.s') == 0) then return false end
  redis.call('DEL', base .. '.j', base .. '.t', base .. '.s', base .. '.d')
  redis.call('SET', base .. '.c', 'done', 'EX', 300)
end

local outcomes, i = {}, 2
while i <= #ARGV do
  local tag, tenant, field, id, record, key, result, stays, careful, how, a, b, c, d, keep, pushes = unpack(ARGV, i, i + 15)
  i = i + 16
  local held = release(tenant, tag, field)
  outcomes[#outcomes + 1] = held and 1 or 0
  if held then
    if record ~= '' then redis.call('HSET', of(tenant, 'open'), id, record) end
    if result ~= '' and (careful ~= '1' or is_free(key, tenant)) then store(key, result, stays) end
    if how == 'end' or how == 'dead' then
      if record == '' then redis.call('HDEL', of(tenant, 'open'), id) end
      if keep ~= '' then
        redis.call('ZADD', of(tenant, 'ended'), keep, id)
        redis.call('ZREMRANGEBYSCORE', of(tenant, 'ended'), '-inf', now)
      end
    end
    if how == 'front' then
      redis.call('RPUSH', P .. a, b)
      enter(tenant)
    elseif how == 'back' then
      redis.call('LPUSH', P .. a, b)
      enter(tenant)
    elseif how == 'later' then
      delay(tenant, a, now + tonumber(c), b)
    elseif how == 'dead' then
      local dead, letters = of(tenant, 'dead'), of(tenant, 'letters')
      redis.call('ZADD', dead, now, a)
      redis.call('HSET', letters, a, b)
      local gone = redis.call('ZRANGEBYSCORE', dead, '-inf', now - tonumber(d), 'LIMIT', 0, 16)
      if #gone == 0 and redis.call('ZCARD', dead) > tonumber(c) then gone = redis.call('ZRANGE', dead, 0, 0) end
      if #gone > 0 then
        redis.call('ZREM', dead, unpack(gone))
        redis.call('HDEL', letters, unpack(gone))
      end
    end
  end
  local go_on = held
  for _ = 1, tonumber(pushes) do
    local kind, v, w, x, y = unpack(ARGV, i, i + 4)
    if held and kind == 'complete' then go_on = true end
    if go_on and also[kind](tenant, v, w, x, y) == false then go_on = false end
    i = i + 5
  end
  if held and tonumber(pushes) > 0 then enter(tenant) end
end
return outcomes
