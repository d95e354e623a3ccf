-- ARGV: now, version, arguments, sort of a row.
-- Answers the output; {2} a bad time to live, {3, what} undecodable.
local apply = (function()
$PROCEDURE
end)()
local now = $NOW
$SORT_4
local found = $LOAD
local state = nil
if found then
  if #found < 25 then return {3, 'record'} end
  local format, at = struct.unpack('>BI8', found)
  if format ~= 1 or at > 9007199254740991 then return {3, 'record'} end
  if at == 0 or at > now then state = string.sub(found, 26) end
end
local action, output, new_state, ttl_us = apply(state, now, ARGV[3])
if action == 'put' then
  local at, px = 0, nil
  if ttl_us then
    at = now + ttl_us
    if ttl_us < 1 or at > 9007199254740991 then return {2} end
    px = math.ceil(ttl_us / 1000) + $GRACE_MS
  end
  local record = struct.pack('>BI8', 1, at) .. ARGV[2] .. new_state
  $PUT
elseif action == 'delete' then
  $REMOVE
elseif action == 'undecodable' then
  return {3, output}
end
return output
