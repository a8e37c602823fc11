-- Ends leases whose tasks are done: the short way of settle.lua, for what nearly all are. ARGV: now, tenant, seconds that results stay,
-- then of each: tag, id, result or ''. Gives 1 for each that was held, 0 for the others, which are left as they are.
though_full()
local tenant, stays = ARGV[2], ARGV[3]
local meta = P .. 'celery-task-meta-'
local tags = {}
for i = 4, #ARGV, 3 do tags[#tags + 1] = ARGV[i] end
local scores = redis.call('ZMSCORE', LEASES, unpack(tags))
local outcomes, ids, ended = {}, {}, {}
tags = {}
for n, score in ipairs(scores) do
  local i = 1 + 3 * n
  local tag, id, result = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  -- the same lease may be there twice
  local held = score and not ended[tag]
  outcomes[n] = held and 1 or 0
  if held then
    ended[tag] = true
    tags[#tags + 1] = tag
    ids[#ids + 1] = id
    if result ~= '' then
      redis.call('SET', meta .. id, result, 'EX', stays)
      redis.call('PUBLISH', meta .. id, result)
    end
  end
end
if #tags > 0 then
  redis.call('HDEL', HELD, unpack(tags))
  redis.call('ZREM', LEASES, unpack(tags))
  redis.call('HDEL', of(tenant, 'run'), unpack(ids))
  redis.call('HDEL', of(tenant, 'open'), unpack(ids))
  uncap(tenant)
end
return outcomes
