-- ARGV: now, tenant, then six of each task: id, list, envelope, record, unique key with the seconds that it stays or '', due in ms or 0.
-- Gives an id for each, another's where the unique key is taken, '' where the queue is full.
local tenant = ARGV[2]
local OPEN = of(tenant, 'open')
local most = tonumber(redis.call('HGET', of(tenant, 'config'), 'max_length') or 0)
local room = most > 0 and most - redis.call('HLEN', OPEN)

local ids, opened, pushes = {}, {}, {}
for i = 3, #ARGV, 6 do
  local id, list, envelope, record, unique, due = unpack(ARGV, i, i + 5)
  local outcome = id
  if unique ~= '' then
    local stays, name = unique:match('^(%d+) (.+)$')
    name = of(tenant, 'unique:' .. name)
    local known = redis.call('GET', name)
    if known and redis.call('HEXISTS', OPEN, known) == 1 then
      outcome = known
    elseif room ~= 0 then
      redis.call('SET', name, id, 'EX', stays)
      -- of two in one call with one key, the second is the first
      redis.call('HSET', OPEN, id, record)
    end
  end
  if outcome == id then
    if room == 0 then
      outcome = ''
    else
      if room then room = room - 1 end
      opened[#opened + 1] = id
      opened[#opened + 1] = record
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
  end
  ids[#ids + 1] = outcome
end
if #opened > 0 then redis.call('HSET', OPEN, unpack(opened)) end
for list, push in pairs(pushes) do redis.call('LPUSH', P .. list, unpack(push)) end
if next(pushes) then enter(tenant) end
redis.call('SADD', P .. 'forge:tenants', tenant)
return ids
