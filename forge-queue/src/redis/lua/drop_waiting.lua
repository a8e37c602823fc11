-- Takes away what waits, some at a time. ARGV: now, tenant, most tasks, the queues that are bound to it beside its own. Gives how many open
-- tasks were closed, and how many messages were taken; 0 of them once there are no more.
local tenant, most = ARGV[2], tonumber(ARGV[3])
local messages = {}
local queues = { tenant .. '.default' }
for i = 4, #ARGV do queues[#queues + 1] = ARGV[i] end
for _, queue in ipairs(queues) do
  for _, step in ipairs({ '', '\6\0223', '\6\0226', '\6\0229' }) do
    for _, message in ipairs(redis.call('RPOP', P .. queue .. step, most) or {}) do messages[#messages + 1] = message end
  end
end
for _, member in ipairs(redis.call('ZRANGE', of(tenant, 'delayed'), 0, most - 1)) do
  redis.call('ZREM', of(tenant, 'delayed'), member)
  messages[#messages + 1] = member:sub(member:find('\n', 1, true) + 1)
end
local closed = 0
for _, message in ipairs(messages) do
  local id = message:match('^{"forge": "(%x+%-%x+%-%x+%-%x+%-%x+)", "body": "')
  if id then closed = closed + redis.call('HDEL', of(tenant, 'open'), id) else closed = closed + 1 end
end
return { closed, #messages }
