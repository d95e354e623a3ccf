-- ARGV: now, '', sort of a row. Answers the record, also a corrupt one, false if absent or expired.
local call, now = redis.call, $NOW
$SORT
local found = $LOAD
if found and #found >= 25 then
  local format, at = struct.unpack('>BI8', found)
  if format == 1 and at ~= 0 and at <= now then return false end
end
return found
