-- ARGV: now, sort. Answers the record, also a corrupt one, false if absent or expired.
local now = time_of(ARGV[1])
local record = load(ARGV[2])
if record and not is_corrupt(record) and not is_live(record, now) then return false end
return record
