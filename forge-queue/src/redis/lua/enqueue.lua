-- ARGV: now, tenant, then six of each task: id, list, envelope, record, unique key with the seconds that it stays or '', due in ms or 0.
-- Gives an id for each, another's where the unique key is taken, '' where the queue is full.
local tenant = ARGV[2]
local OPEN = of(tenant, 'open')
local most = tonumber(redis.call('HGET', of(tenant, 'config'), 'max_length') or 0)
local room = most > 0 and most - redis.call('HLEN', OPEN)

-- an id that is derived (UUIDv8) is queued once
local function is_known(id)
  return id:sub(15, 15) == '8' and (redis.call('HEXISTS', OPEN, id) == 1 or redis.call('ZSCORE', of(tenant, 'ended'), id)
    or redis.call('ZSCORE', of(tenant, 'dead'), id))
end

local ids, opened, pushes = {}, {}, {}
for i = 3, #ARGV, 6 do
  local id, list, envelope, record, unique, due = unpack(ARGV, i, i + 5)
  local outcome, fresh, stays, name = id, not is_known(id), nil, nil
  if fresh and unique ~= '' then
    stays, name = unique:match('^(%d+) (.+)$')
    name = of(tenant, 'unique:' .. name)
    local known = redis.call('GET', name)
    if known and redis.call('HEXISTS', OPEN, known) == 1 then outcome, fresh = known, false end
  end
  if fresh and room == 0 then outcome, fresh = '', false end
  if fresh then
    if room then room = room - 1 end
    if name then redis.call('SET', name, id, 'EX', stays) end
    if name or id:sub(15, 15) == '8' then
      -- the next in this call may ask for it
      redis.call('HSET', OPEN, id, record)
    else
      opened[#opened + 1] = id
      opened[#opened + 1] = record
    end
    if due ~= '0' then
      delay(tenant, list, tonumber(due), envelope)
    else
      local push = pushes[list]
      if not push then
        push = {}
        pushes[list] = push
      end
      push[#push + 1] = envelope
    end
  end
  ids[#ids + 1] = outcome
end
if #opened > 0 then redis.call('HSET', OPEN, unpack(opened)) end
for list, push in pairs(pushes) do redis.call('LPUSH', P .. list, unpack(push)) end
if next(pushes) then enter(tenant) end
redis.call('SADD', P .. 'forge:tenants', tenant)
return ids
