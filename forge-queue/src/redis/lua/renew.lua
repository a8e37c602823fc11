-- ARGV: now, then of each lease: tag, its length in ms. Gives the time until which it is held, 0 for one that is lost.
local until_ = {}
for i = 2, #ARGV, 2 do
  local tag, held = ARGV[i], 0
  if redis.call('HEXISTS', UNACKED, tag) == 1 then
    held = now + tonumber(ARGV[i + 1])
    redis.call('ZADD', LEASES, held, tag)
    -- keeps the workers of Celery from giving it back to the queue
    redis.call('ZADD', INDEX, 'XX', now / 1000, tag)
  end
  until_[#until_ + 1] = held
end
return until_
