-- ARGV: now, expectation ('any', 'absent', or 'i' and a version), record ('' deletes), grace in milliseconds, sort.
-- Answers {1} applied, {0, what is there} conflict, {2} expired already, {3} corrupt.
local now = time_of(ARGV[1])
local expect, record, sort = ARGV[2], ARGV[3], ARGV[5]
local at = record ~= '' and expiry(record) or 0
if at ~= 0 and at <= now then return {2} end
if expect ~= 'any' then
  local found = load(sort)
  if found and is_corrupt(found) then return {3} end
  if found and not is_live(found, now) then found = false end
  local holds
  if expect == 'absent' then holds = not found
  else holds = found and string.sub(found, 2, 17) == string.sub(expect, 2) end
  if not holds then return {0, found} end
end
if record == '' then
  remove(sort)
else
  store(sort, record, at == 0 and '' or math.ceil((at - now) / 1000) + tonumber(ARGV[4]))
end
return {1}
