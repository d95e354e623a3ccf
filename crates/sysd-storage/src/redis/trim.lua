-- ARGV: now, how many live rows to keep, how many to remove at most, '' (keep the first) or 'rev' (keep the last).
-- Answers {removed, 1 if more}.
local now = time_of(ARGV[1])
local keep, budget = tonumber(ARGV[2]), tonumber(ARGV[3])
local command = ARGV[4] == 'rev' and 'ZREVRANGE' or 'ZRANGE'
local kept, removed, from = 0, 0, 0
while true do
  local sorts = redis.call(command, KEYS[2], from, from + 99)
  for _, sort in ipairs(sorts) do
    local record = load(sort)
    if kept < keep and record and not is_corrupt(record) and is_live(record, now) then
      kept = kept + 1
      from = from + 1
    elseif kept < keep and record and is_corrupt(record) then
      from = from + 1
    else
      if removed == budget then return {removed, 1} end
      remove(sort)
      removed = removed + 1
    end
  end
  if #sorts < 100 then return {removed, 0} end
end
