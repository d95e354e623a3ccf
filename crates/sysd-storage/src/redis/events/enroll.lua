-- Says that a member is alive, if one is named, and who is.
-- KEYS: the group's members, each with the time that its session ends. ARGV: the member or nothing, its session in microseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1]) end
return redis.call('ZRANGE', KEYS[1], 0, -1)
