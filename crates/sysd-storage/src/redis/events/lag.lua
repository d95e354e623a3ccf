-- How far a group is in one partition: its next number, the lowest and the highest there.
-- KEYS: the stream, the group's record.
local next = redis.call('HGET', KEYS[2], 'next')
if not next then return {} end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not first then return { next, '1', '0' } end
return { next, string.match(first[1], '%d+$'), string.match(last[1], '%d+$') }
