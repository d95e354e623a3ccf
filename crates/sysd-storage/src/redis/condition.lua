-- What write.lua asks first where there is a condition.
local found = $LOAD
if found then
  if #found < 25 then return -3 end
  local format, at = struct.unpack('>BI8', found)
  if format ~= 1 or at > 9007199254740991 then return -3 end
  if at ~= 0 and at <= now then found = false end
end
if not ($HOLDS) then return found end
