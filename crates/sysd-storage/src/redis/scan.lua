-- ARGV: now, first bound, second bound, rows, '' or 'rev'. Two keys.
-- Answers {cursor or false, sort, record, sort, record, ...}; the cursor is the last row looked at if more may follow.
local now = time_of(ARGV[1])
local command = ARGV[5] == 'rev' and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local rows = tonumber(ARGV[4])
local sorts = redis.call(command, KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, rows + 1)
local answer = {false}
local last = math.min(rows, #sorts)
if #sorts > rows then answer[1] = sorts[rows] end
for at = 1, last do
  local record = load(sorts[at])
  if record then
    if is_corrupt(record) or is_live(record, now) then
      answer[#answer + 1] = sorts[at]
      answer[#answer + 1] = record
    elseif expiry(record) + GRACE_US <= now then
      remove(sorts[at])
    end
  end
end
return answer
