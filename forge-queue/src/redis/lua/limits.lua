-- ARGV: now, tenant, then of each setting: name, value or '' for none.
local tenant = ARGV[2]
local config = of(tenant, 'config')
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', config, ARGV[i]) else redis.call('HSET', config, ARGV[i], ARGV[i + 1]) end
end
-- what held it may hold it no more: its next turn finds out
redis.call('HDEL', BLOCKED, tenant)
redis.call('ZREM', P .. 'forge:throttled', tenant)
redis.call('SADD', P .. 'forge:tenants', tenant)
enter(tenant)
