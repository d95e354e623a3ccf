-- ARGV: now, then of each row its sort and its record, which never expires. Two keys. Answers 1.
-- Into the sorted set first, as in write.lua.
local order = {}
for at = 2, #ARGV, 2 do
  order[at - 1], order[at] = 0, ARGV[at]
end
redis.call('ZADD', KEYS[2], unpack(order))
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
