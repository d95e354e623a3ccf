-- ARGV: now, expectation (a 'any', b 'absent', or 'i' and a version), record ('' deletes), PX, sort.
-- Answers {1} applied, {0, what is there} conflict, {3} corrupt.
local now = struct.unpack('>I8', ARGV[1])
local expect, sort = ARGV[2], ARGV[5]
if expect ~= 'any' then
  local found = load(sort)
  if found and is_corrupt(found) then return {3} end
  if found and not is_live(found, now) then found = false end
  local holds
  if expect == 'absent' then holds = not found
  else holds = found and string.sub(found, 2, 17) == string.sub(expect, 2) end
  if not holds then return {0, found} end
end
if ARGV[3] == '' then remove(sort) else store(sort, ARGV[3], ARGV[4]) end
return {1}
