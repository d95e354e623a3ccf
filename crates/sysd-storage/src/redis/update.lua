-- ARGV: now, version, arguments, grace in milliseconds, sort.
-- Answers {1, output}, {2} a bad time to live, {3, what} undecodable.
local now = time_of(ARGV[1])
local sort = ARGV[5]
local found = load(sort)
local state = nil
if found then
  if is_corrupt(found) then return {3, 'record'} end
  if is_live(found, now) then state = string.sub(found, HEADER + 1) end
end
local action, output, new_state, ttl_us = apply(state, now, ARGV[3])
if action == 'undecodable' then return {3, output} end
if action == 'delete' then remove(sort) end
if action == 'put' then
  local at, px = 0, ''
  if ttl_us then
    at = now + ttl_us
    if ttl_us < 1 or at > 9007199254740991 then return {2} end
    px = math.ceil(ttl_us / 1000) + tonumber(ARGV[4])
  end
  store(sort, '\1' .. ARGV[2] .. struct.pack('>I8', at) .. new_state, px)
end
return {1, output}
