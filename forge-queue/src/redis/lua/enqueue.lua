-- ARGV: now, tenant, then seven of each task: id, list, envelope, record, seconds that the record stays, unique key or '',
-- due in ms or 0. Gives an id for each, another's where the unique key is taken, '' where the queue is full.
local tenant = ARGV[2]
local most = tonumber(redis.call('HGET', of(tenant, 'config'), 'max_length') or 0)
local waiting
local function full(list)
  if most == 0 then return false end
  if not waiting then
    waiting = redis.call('ZCARD', of(tenant, 'delayed'))
    for _, step in ipairs({ '', '\6\0223', '\6\0226', '\6\0229' }) do
      waiting = waiting + redis.call('LLEN', P .. tenant .. '.default' .. step)
    end
  end
  return waiting >= most
end

local ids, pushes = {}, {}
for i = 3, #ARGV, 7 do
  local id, list, envelope, record, stays, unique, due = unpack(ARGV, i, i + 6)
  local outcome = id
  local record_key = of(tenant, 'task:' .. id)
  -- an id that is there already is one that is queued once: it stays as it is
  if unique ~= '' and redis.call('EXISTS', record_key) == 0 then
    unique = of(tenant, 'unique:' .. unique)
    local known = redis.call('GET', unique)
    local state = known and redis.call('GET', of(tenant, 'task:' .. known))
    if state and state:sub(1, 1) == 'R' then outcome = known end
  end
  if outcome == id then
    if full(list) then
      if redis.call('EXISTS', record_key) == 0 then outcome = '' end
    elseif redis.call('SET', record_key, record, 'EX', stays, 'NX') then
      if unique ~= '' then redis.call('SET', unique, id, 'EX', stays) end
      if waiting then waiting = waiting + 1 end
      if tonumber(due) > now then
        delay(tenant, list, due, envelope)
      else
        local push = pushes[list]
        if not push then
          push = {}
          pushes[list] = push
        end
        push[#push + 1] = envelope
      end
    end
  end
  ids[#ids + 1] = outcome
end
for list, push in pairs(pushes) do redis.call('LPUSH', P .. list, unpack(push)) end
if next(pushes) then enter(tenant) end
redis.call('SADD', P .. 'forge:tenants', tenant)
return ids
