-- ARGV: now, tenant, id, result key, result, seconds that it stays. Gives whether it was there and had not ended.
local tenant, id = ARGV[2], ARGV[3]
if redis.call('HDEL', of(tenant, 'open'), id) == 0 then return 0 end
local tag = redis.call('HGET', of(tenant, 'run'), id)
if tag then
  release(tenant, tag, id)
  redis.call('PUBLISH', P .. 'forge:lost', id)
end
redis.call('SET', P .. ARGV[4], ARGV[5], 'EX', ARGV[6])
redis.call('PUBLISH', P .. ARGV[4], ARGV[5])
return 1
