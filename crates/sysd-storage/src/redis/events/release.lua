-- Gives a partition up, if it is still the member's.
-- KEYS: the group's record. ARGV: the member, its token.
local group = redis.call('HMGET', KEYS[1], 'owner', 'token')
if group[1] == ARGV[1] and group[2] == ARGV[2] then redis.call('HDEL', KEYS[1], 'owner', 'until') end
return 1
