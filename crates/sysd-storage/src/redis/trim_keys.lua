-- Of keys only. ARGV: now, how many rows to keep at the end, how many to remove at most. Two keys; the second has the rows.
local order = KEYS[2]
local excess = math.min(redis.call('ZCARD', order) - tonumber(ARGV[2]), tonumber(ARGV[3]))
if excess < 1 then return 0 end
return redis.call('ZREMRANGEBYRANK', order, 0, excess - 1)
