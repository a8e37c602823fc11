-- A part of a chord is done: Celery's CHORD_PART_RETURN for who holds a lease. A part that comes twice counts once. The last to come claims
-- the body; whoever runs the same part again has the same claim, so a worker that dies here leaves nothing behind.
-- ARGV: now, tag, tenant, base of the keys, member, part, place, seconds that it stays, seconds of the claim, claim.
-- Gives 0; -1 for a lease that is lost, -2 for another tenant's chord; 1, the parts and their structure or '' where the body is to be sent.
local tag, tenant, base, member, part, place = unpack(ARGV, 2, 7)
local stays, claim = ARGV[8], ARGV[10]
though_full()
local function of_chord(what) return P .. base .. what end
if not redis.call('ZSCORE', LEASES, tag) then return { -1 } end
local owner = P .. 'forge:chord:' .. base
redis.call('SET', owner, tenant, 'EX', stays, 'NX')
if redis.call('GET', owner) ~= tenant then return { -2 } end
local claimed = redis.call('GET', of_chord('.c'))
if claimed == 'done' then return { 0 } end

-- a list under `result_chord_ordered = False`
local list = redis.call('TYPE', of_chord('.j')).ok == 'list'
if redis.call('SADD', of_chord('.d'), member) == 1 then
  if list then redis.call('RPUSH', of_chord('.j'), part) else redis.call('ZADD', of_chord('.j'), place, part) end
end
for _, key in ipairs({ '.j', '.t', '.s', '.d', '' }) do redis.call('EXPIRE', of_chord(key), stays) end
local size, more = redis.call('GET', of_chord('.s')), redis.call('GET', of_chord('.t'))
local ready = redis.call(list and 'LLEN' or 'ZCARD', of_chord('.j'))
if not size or ready ~= tonumber(size) + tonumber(more or 0) then return { 0 } end
if claimed and claimed ~= claim then return { 0 } end
redis.call('SET', of_chord('.c'), claim, 'EX', ARGV[9])
return { 1, redis.call(list and 'LRANGE' or 'ZRANGE', of_chord('.j'), 0, -1), redis.call('GET', of_chord('')) or '' }
