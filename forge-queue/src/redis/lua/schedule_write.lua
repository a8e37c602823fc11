-- ARGV: now, tenant, name, the version to be there or '' for none, version, record, due in ms or ''. Gives whether it was written.
local tenant, name, was, version, record, due = unpack(ARGV, 2, 7)
local key = of(tenant, 'schedules')
local there = redis.call('HGET', key, name)
if (there and there:match('^[^\n]*') or '') ~= was then return 0 end
redis.call('HSET', key, name, version .. '\n' .. record)
local member = tenant .. ':' .. name
if due == '' then
  redis.call('ZREM', P .. 'forge:schedules', member)
else
  redis.call('ZADD', P .. 'forge:schedules', due, member)
end
return 1
