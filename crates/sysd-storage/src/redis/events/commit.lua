-- Commits for a member that still owns the partition.
-- KEYS: the stream, the group's record. ARGV: the member, its session in microseconds, its token, the number of the next event;
-- the number and the head of the last event that it was handed.
local group = redis.call('HMGET', KEYS[2], 'next', 'owner', 'token')
if group[2] ~= ARGV[1] or group[3] ~= ARGV[3] then return 0 end
local at = '0-' .. ARGV[5]
local last = redis.call('XRANGE', KEYS[1], at, at)[1]
local first = not last and redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local is_trimmed = first and tonumber(string.match(first[1], '%d+$')) > tonumber(ARGV[5])
-- A failover took back what was handed out: what has or will have those numbers was never read.
if not (is_trimmed or last and last[2][2] == ARGV[6]) then return 0 end
local time = redis.call('TIME')
local till = string.format('%.0f', time[1] * 1000000 + time[2] + tonumber(ARGV[2]))
local next = tonumber(group[1]) < tonumber(ARGV[4]) and ARGV[4] or group[1]
redis.call('HSET', KEYS[2], 'next', next, 'until', till)
return 1
