-- Ends leases. ARGV: now, then of each: tag, tenant, field in the run hash, id, record, result key, result, seconds that the result stays,
-- '1' if another tenant's result is not to be written over, how it goes on, four words for that, until when in ms the end of the task is
-- remembered or '', n, n times list and envelope.
-- How it goes on: 'end'; 'front' and 'back' (list, envelope); 'later' (list, envelope, ms); 'dead' (id, letter, most letters, ms that they
-- stay). A record that is not empty becomes that of a task of ours that is open; 'end' and 'dead' without one
-- close it.
-- Gives 1 for each that was held, 0 for the others, which are left as they are.
local outcomes, i = {}, 2
while i <= #ARGV do
  local tag, tenant, field, id, record, key, result, stays, careful, how, a, b, c, d, keep, pushes = unpack(ARGV, i, i + 15)
  i = i + 16
  local held = release(tenant, tag, field)
  outcomes[#outcomes + 1] = held and 1 or 0
  if held then
    if record ~= '' then redis.call('HSET', of(tenant, 'open'), id, record) end
    if result ~= '' then
      local mine = true
      if careful == '1' then
        local there = redis.call('GET', P .. key)
        mine = not there or not there:find('"forge": "', 1, true) or there:find('"forge": "' .. tenant .. '"', 1, true)
      end
      if mine then
        redis.call('SET', P .. key, result, 'EX', stays)
        redis.call('PUBLISH', P .. key, result)
      end
    end
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
  for _ = 1, tonumber(pushes) do
    if held then redis.call('LPUSH', P .. ARGV[i], ARGV[i + 1]) end
    i = i + 2
  end
  if held and tonumber(pushes) > 0 then enter(tenant) end
end
return outcomes
