-- What workers of Celery took and did not give back in time, by kombu's rule. ARGV: now, ms of the visibility timeout, how many to pass
-- over, at most how many. Gives tags and values; tags of ours are the reaper's.
local overdue = {}
local first, last = tonumber(ARGV[3]), tonumber(ARGV[3]) + tonumber(ARGV[4]) - 1
-- whoever holds kombu's mutex is at it
if redis.call('EXISTS', P .. 'unacked_mutex') == 1 then return { 0, overdue } end
local tags = redis.call('ZRANGEBYSCORE', INDEX, '-inf', (now - tonumber(ARGV[2])) / 1000, 'LIMIT', first, last - first + 1)
for _, tag in ipairs(tags) do
  if tag:sub(1, 2) ~= 'k:' then
    local value = redis.call('HGET', UNACKED, tag)
    if value then
      overdue[#overdue + 1] = tag
      overdue[#overdue + 1] = value
    end
  end
end
return { #tags, overdue }
