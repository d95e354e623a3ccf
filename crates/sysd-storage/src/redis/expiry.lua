-- When a record expires: microseconds, zero for never, nil if the record is corrupt.
local function expiry(record)
  if #record < 25 then return nil end
  local format, at = struct.unpack('>BI8', record)
  if format == 1 and at <= 9007199254740991 then return at end
end
