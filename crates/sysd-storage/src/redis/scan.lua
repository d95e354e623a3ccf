-- ARGV: now, first bound, second bound, rows, '' or 'rev'. Two keys.
-- Answers {cursor or false, sort, record, sort, record, ...}; the cursor is the last row looked at if more may follow.
local now = $NOW
local command = ARGV[5] == 'rev' and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local rows = tonumber(ARGV[4])
local sorts = redis.call(command, KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, rows + 1)
local answer, size = {false}, 1
local last = #sorts
if last > rows then
  last = rows
  answer[1] = sorts[rows]
end
-- In pieces that Lua's stack has room for.
for from = 1, last, 1000 do
  local to = math.min(from + 999, last)
  local records = redis.call('HMGET', KEYS[1], unpack(sorts, from, to))
  for at = from, to do
    local record = records[at - from + 1]
    if record then
      local format, expiry = 0, 0
      if #record >= 25 then format, expiry = struct.unpack('>BI8', record) end
      if format ~= 1 or expiry == 0 or expiry > now then
        answer[size + 1] = sorts[at]
        answer[size + 2] = record
        size = size + 2
      elseif expiry + $GRACE_MS * 1000 <= now then
        -- So late that no caller whose clock is behind can still see it.
        local sort = sorts[at]
        $REMOVE
      end
    end
  end
end
return answer
