-- ARGV: now, tenant, id, list, envelope, record, result key. Gives whether it was a dead letter.
local tenant, id = ARGV[2], ARGV[3]
if redis.call('ZREM', of(tenant, 'dead'), id) == 0 then return 0 end
redis.call('HDEL', of(tenant, 'letters'), id)
redis.call('ZREM', of(tenant, 'ended'), id)
redis.call('HSET', of(tenant, 'open'), id, ARGV[6])
redis.call('DEL', P .. ARGV[7])
redis.call('LPUSH', P .. ARGV[4], ARGV[5])
enter(tenant)
return 1
