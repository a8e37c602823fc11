-- ARGV: now, then of each lease: tag, its length in ms. Gives the time until which it is held, 0 for one that is lost.
though_full()
local times = {}
for i = 2, #ARGV, 2 do
  local tag, held = ARGV[i], 0
  local kombu = tag:sub(1, 1) == 'k'
  if redis.call('HEXISTS', kombu and UNACKED or HELD, tag) == 1 then
    held = now + tonumber(ARGV[i + 1])
    redis.call('ZADD', LEASES, held, tag)
    -- keeps the workers of Celery from giving it back to the queue
    if kombu then redis.call('ZADD', INDEX, 'XX', now / 1000, tag) end
  end
  times[#times + 1] = held
end
return times
