-- Gives messages back to the front of their lists. ARGV: now, then of each: tag, tenant, list, message. Gives how many were still held.
local given = 0
for i = 2, #ARGV, 4 do
  local tag, tenant, list, message = unpack(ARGV, i, i + 3)
  redis.call('ZREM', INDEX, tag)
  if redis.call('HDEL', UNACKED, tag) == 1 then
    redis.call('RPUSH', P .. list, message)
    enter(tenant)
    given = given + 1
  end
end
return given
