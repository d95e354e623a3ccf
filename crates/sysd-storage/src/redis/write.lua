-- ARGV: now, record ('' deletes), sort of a row; last the version that is expected, if one is.
-- A record is a format byte, its expiry (8, big-endian microseconds, zero: never), its version (16), its value. Times are
-- packed with struct and are exact as doubles below 2^53.
-- Answers 1 applied, what is there (false: nothing) on a conflict, -2 expired already, -3 corrupt.
local now = $NOW
local record = ARGV[2]
$SORT
local call, life = redis.call, nil
if record ~= '' then
  local _, at = struct.unpack('>BI8', record)
  if at ~= 0 then
    if at <= now then return -2 end
    life = math.ceil((at - now + $GRAIN) / 1000)
  end
end
$CONDITION
if record == '' then
  $REMOVE
else
  $PUT
end
return 1
