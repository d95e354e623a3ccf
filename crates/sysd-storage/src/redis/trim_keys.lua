-- Of keys only. ARGV: now, how many rows to keep at the end, how many to remove at most. Two keys; the second has the rows.
local excess = math.min(redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[2]), tonumber(ARGV[3]))
if excess < 1 then return 0 end
return redis.call('ZREMRANGEBYRANK', KEYS[2], 0, excess - 1)
