-- ARGV: now, then the sort of each row. Two keys. Answers 1.
redis.call('ZREM', KEYS[2], unpack(ARGV, 2))
redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
return 1
