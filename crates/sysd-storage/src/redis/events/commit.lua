-- Commits for a member that still owns the partition.
-- KEYS: the group's record. ARGV: the member, its session in microseconds, its token, the number of the next event.
local group = redis.call('HMGET', KEYS[1], 'next', 'owner', 'token')
if group[2] ~= ARGV[1] or group[3] ~= ARGV[3] then return 0 end
local time = redis.call('TIME')
local till = string.format('%.0f', time[1] * 1000000 + time[2] + tonumber(ARGV[2]))
local next = tonumber(group[1]) < tonumber(ARGV[4]) and ARGV[4] or group[1]
redis.call('HSET', KEYS[1], 'next', next, 'until', till)
return 1
