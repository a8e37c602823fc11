-- ARGV: now, tenant, id, result key, result, seconds that it stays. Gives 1, 0 if it has ended, -1 if it is not there.
local tenant, id = ARGV[2], ARGV[3]
local key = of(tenant, 'task:' .. id)
local record = redis.call('GET', key)
if not record then return -1 end
if record:sub(1, 1) ~= 'R' then return 0 end
redis.call('SET', key, 'C' .. record:sub(2), 'KEEPTTL')
local tag = redis.call('HGET', of(tenant, 'run'), id)
if tag then
  release(tenant, tag, id)
  redis.call('PUBLISH', P .. 'forge:lost', id)
end
redis.call('SET', P .. ARGV[4], ARGV[5], 'EX', ARGV[6])
redis.call('PUBLISH', P .. ARGV[4], ARGV[5])
return 1
