-- ARGV: now, tenant, id, list, envelope, record, seconds that the record stays, result key. Gives whether it was a dead letter.
local tenant, id = ARGV[2], ARGV[3]
if redis.call('ZREM', of(tenant, 'dead'), id) == 0 then return 0 end
redis.call('HDEL', of(tenant, 'letters'), id)
redis.call('SET', of(tenant, 'task:' .. id), ARGV[6], 'EX', ARGV[7])
redis.call('DEL', P .. ARGV[8])
redis.call('LPUSH', P .. ARGV[4], ARGV[5])
enter(tenant)
return 1
