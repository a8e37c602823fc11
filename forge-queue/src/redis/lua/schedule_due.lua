-- ARGV: now, most. Gives the time, the ms at which the first of the others is due or '', and tenant, name and value of each that is due.
local schedules = P .. 'forge:schedules'
local answer = { tostring(now), '' }
local next_one = redis.call('ZRANGEBYSCORE', schedules, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if next_one[2] then answer[2] = next_one[2] end
local due = redis.call('ZRANGEBYSCORE', schedules, '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
for _, member in ipairs(due) do
  local tenant, name = member:match('^([^:]*):(.*)$')
  local value = redis.call('HGET', of(tenant, 'schedules'), name)
  if value then
    answer[#answer + 1] = tenant
    answer[#answer + 1] = name
    answer[#answer + 1] = value
  end
end
return answer
