-- ARGV: now, first bound, second bound, rows, '' or 'rev', bytes. Two keys.
-- Answers {cursor or false, sort, record, sort, record, ...}; the cursor is the last row looked at if more may follow.
-- Looks at so many bytes of records and at one row at least: a page of large rows is a short one, or Redis would stand still
-- until it is copied, and the call would end before it arrives, each time anew.
local call, name, order, now = redis.call, KEYS[1], KEYS[2], $NOW
$EXPIRY
local command = ARGV[5] == 'rev' and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local rows, left = tonumber(ARGV[4]), tonumber(ARGV[6])
local sorts = call(command, order, ARGV[2], ARGV[3], 'LIMIT', 0, rows + 1)
local answer, size = {false}, 1
for at, sort in ipairs(sorts) do
  -- One by one costs as much as asking for the sizes first, which all at once would need.
  local record = at <= rows and $LOAD
  if record then left = left - #record end
  if at > rows or (left < 0 and at > 1) then
    answer[1] = sorts[at - 1]
    break
  end
  if record then
    local expires = expiry(record)
    if not expires or expires == 0 or expires > now then
      answer[size + 1] = sort
      answer[size + 2] = record
      size = size + 2
    elseif expires + $GRAIN <= now then
      -- So late that no caller whose clock is behind can still see it.
      $REMOVE
    end
  end
end
return answer
